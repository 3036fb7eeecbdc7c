"""`advrad predict` on archives, and in several processes: what is said, the exit status, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_exports
from toy_archives import images, rows, tar_bytes, write_folder
from trained_run import MAIN, Cli

from advrad.archive.parts import folder_of
from advrad.archive.pieces import PIECE_IMAGES

RESULTS = Path("results.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose score is the brightness."""
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "toy")


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_table_is_told_in_few_lines(cli: Cli, run: Path) -> None:
    write_folder(Path("in"), images())
    Path("in/notes.md").write_text("no image")
    done = cli("predict", run, "in", "-o", RESULTS)
    assert (done.status, done.out) == (0, "results.parquet\n")
    assert done.err.splitlines()[-2:] == [
        "advrad: 2 of 5 images are defective",
        "advrad: 1 file was not judged, because it is no image that advrad reads: notes.md (.md)",
    ]
    again = cli("predict", run, "in", "-o", RESULTS, "--json")
    assert json.loads(again.out) == {
        "results": "results.parquet",
        "rows": 5,
        "judged": 0,
        "defective": 2,
        "broken": 0,
        "doubtful": 0,
    }
    assert "advrad: 2 of 5 images are defective; 5 of them were judged before" in again.err


def test_results_among_the_images_are_no_source(cli: Cli, run: Path) -> None:
    write_folder(Path("in"), images(2))
    for _ in range(2):
        done = cli("predict", run, "in", "-o", "in/results.parquet")
        assert (done.status, done.out) == (0, "in/results.parquet\n")
        assert "not judged" not in done.err


@pytest.mark.parametrize("place", ["s3://bucket/results.parquet", "memory://heat-maps"])
def test_results_go_to_a_disk(cli: Cli, run: Path, place: str) -> None:
    write_folder(Path("in"), images(2))
    done = cli("predict", run, "in", "-o", place)
    assert (done.status, done.out) == (2, "")
    assert f"--output {place}: is a URL, and results are written to a disk" in done.err


def test_broken_images_are_named_and_the_status_tells(cli: Cli, run: Path) -> None:
    write_folder(Path("in"), images(2) | {f"broken-{number}.png": b"no image" for number in range(7)})
    done = cli("predict", run, "in", "-o", RESULTS)
    assert done.status == 1
    assert "advrad: 7 cannot be read; the column error says why:" in done.err
    assert done.err.count("advrad: broken: in/broken-") == 5
    assert cli("predict", run, "in", "-o", RESULTS, "--skip-bad").status == 0
    assert cli("predict", run, "in/broken-0.png", "-o", RESULTS, "--skip-bad").status == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "-o", "r.parquet"), "none: cannot be read (there is no such file or folder)"),
        (("-o", "r.parquet"), "a table needs named sources"),
        (("-", "-o", "r.parquet"), "a table needs named sources"),
        (("s.tar",), "s.tar: is read for a table only; add -o with a file, such as -o results.parquet"),
        (("s3://bucket/in",), "s3://bucket/in: is read for a table only; add -o"),
        (("in", "--engine", "ray"), "--engine ray: makes tables only; add -o"),
        (("in", "--image-column", "x"), "--image-column: is for tables only; add -o"),
        (("in", "-o", "r.parquet", "--csv", "a.csv"), "--csv: cannot be combined with r.parquet"),
        (("in", "--jobs", "0"), "--jobs 0: must be 1 or more"),
        (("in", "--address", "auto"), "--address: is for the engine ray only"),
        (("in", "--engine", "fast"), "--engine fast: is unknown; choose "),
        (("in", "-o", "none/../in/00000.png/r.parquet"), "cannot be"),
        (("in", "./in", "-o", "r.parquet"), "./in: is named twice, so its images would be counted twice"),
        (("in", "in/00000.png", "-o", "r.parquet"), "in/00000.png: lies in in, which is named as well"),
        (("in", "-o", "r.parquet", "--radius", "0.1"), "--radius: can only be used with certification"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments: tuple[str, ...], message: str, cli: Cli, run: Path) -> None:
    write_folder(Path("in"), images(1))
    Path("s.tar").write_bytes(tar_bytes(images(1)))
    done = cli("predict", run, *arguments)
    assert done.status == 2
    assert message in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_two_processes_print_and_write_the_same(cli: Cli, run: Path) -> None:
    write_folder(Path("in"), images(40) | {"zz.png": b"no image"})
    one = cli("predict", run, "in", "--skip-bad")
    two = cli("predict", run, "in", "--skip-bad", "--jobs", "2", "-o", "maps", "--csv", "two.csv")
    lines = [json.loads(line) for line in two.out.splitlines()]
    overlays = [line.pop("overlay") for line in lines if "overlay" in line]
    assert lines == [json.loads(line) for line in one.out.splitlines()]
    assert (one.status, two.status, two.err) == (0, 0, one.err)
    assert len({overlay for overlay in overlays if Path(overlay).is_file()}) == 40
    assert len(Path("two.csv").read_text().splitlines()) == 42
    cli("predict", run, "in", "-o", "one.parquet", "--skip-bad")
    cli("predict", run, "in", "-o", "two.parquet", "--skip-bad", "--jobs", "2")
    assert rows(Path("two.parquet")) == rows(Path("one.parquet"))


@pytest.mark.slow
def test_two_processes_stop_at_a_broken_image(cli: Cli, run: Path) -> None:
    write_folder(Path("in"), images(40) | {"00020-broken.png": b"no image"})
    done = cli("predict", run, "in", "--jobs", "2")
    assert (done.status, len(done.out.splitlines())) == (2, 20)
    assert "advrad: error: in/00020-broken.png: " in done.err


def started(run: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAIN, "predict", str(run), "in", "-o", str(RESULTS), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def until_a_part_is_there(process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if any(folder_of(RESULTS).glob("*.parquet")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail("no part was finished within a minute")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_is_killed_goes_on(number: signal.Signals, jobs: str, cli: Cli, run: Path) -> None:
    n = 20 * PIECE_IMAGES
    write_folder(Path("in"), images(n))
    with started(run, "--jobs", jobs) as process:
        until_a_part_is_there(process)
        os.kill(process.pid, number)
        _, said = process.communicate()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert said.splitlines()[-1].startswith("advrad: interrupted; what is finished is kept beside results.parquet")
    kept = sum(len(rows(path)) for path in folder_of(RESULTS).glob("*.parquet"))
    assert 0 < kept < n and not RESULTS.exists()
    done = cli("predict", run, "in", "-o", RESULTS, "--json", "--jobs", jobs)
    assert json.loads(done.out)["judged"] == n - kept
    assert [row["path"] for row in rows(RESULTS)] == [f"in/{name}" for name in images(n)]
    assert not folder_of(RESULTS).exists()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_only_its_piece(run: Path) -> None:
    n = 12 * PIECE_IMAGES
    write_folder(Path("in"), images(n))
    with started(run, "--jobs", "2") as process:
        until_a_part_is_there(process)
        workers = [
            child for child in children(process.pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
        ]
        os.kill(workers[-1], signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert [row["path"] for row in rows(RESULTS)] == [f"in/{name}" for name in images(n)]
