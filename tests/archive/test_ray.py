"""An archive on two Ray nodes: judged exactly once, although a node and the command itself are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_exports
from toy_archives import images, rows, write_folder
from trained_run import MAIN

from advrad.archive.parts import folder_of
from advrad.archive.pieces import PIECE_IMAGES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]
RESULTS = Path("results.parquet")
N = 5000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray_nodes import ray_nodes

    with ray_nodes(2) as found:
        yield found


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def started(run: Path, address: str) -> subprocess.Popen[str]:
    options = ["-o", str(RESULTS), "--engine", "ray", "--address", address, "--json"]
    command = [sys.executable, "-c", MAIN, "predict", str(run), "in", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_parts_are_there(process: subprocess.Popen[str], n: int) -> None:
    for _ in range(30_000):
        if len(list(folder_of(RESULTS).glob("*.parquet"))) >= n:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"no {n} parts were finished in five minutes")


def test_an_archive_is_judged_once_although_a_node_and_the_command_are_killed(cluster: Any, tmp_path: Path) -> None:
    run = toy_exports.write(tmp_path / "toy")
    write_folder(Path("in"), images(N))
    with started(run, cluster.address) as process:
        until_parts_are_there(process, 2)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    kept = sum(len(rows(path)) for path in folder_of(RESULTS).glob("*.parquet"))
    assert 2 * PIECE_IMAGES <= kept < N
    more = cluster.add_node(num_cpus=1)
    with started(run, cluster.address) as process:
        until_parts_are_there(process, kept // PIECE_IMAGES + 2)
        cluster.remove_node(more, allow_graceful=False)
        out, said = process.communicate()
    assert process.returncode == 0, said
    assert json.loads(out)["judged"] == N - kept
    table = rows(RESULTS)
    assert [row["path"] for row in table] == [f"in/{name}" for name in images(N)]
    assert len({row["content"] for row in table}) == N
    assert all(row["error"] is None for row in table)
    assert not folder_of(RESULTS).exists()
