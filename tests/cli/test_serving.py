from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import closed_form_run
import httpx
import pytest
import trained_run

from advrad.serving.access import digest_of

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def advrad(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> trained_run.Cli:
    return trained_run.call(capsys, monkeypatch)


@pytest.fixture(scope="session")
def served_run(widgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return closed_form_run.write(widgets, tmp_path_factory.mktemp("served") / "widget")


@contextmanager
def serving(run: Path, data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A running `advrad serve`, its address, and the lines of its log so far."""
    command = [sys.executable, "-c", trained_run.MAIN, "serve", str(run), "--data", str(data), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    log: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=lambda errors: log.extend(errors), args=(process.stderr,), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("serving  http"), log
        yield process, line.split()[1], log
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def test_keys_are_made_shown_and_removed(advrad: trained_run.Cli, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = advrad("keys", "add", path, "--name", "line-2", "--role", "inspect")
    key = made.out.strip()
    assert made.status == 0 and key.startswith("advrad_")
    assert key not in path.read_text() and digest_of(key) in path.read_text()
    assert advrad("keys", "add", path, "--name", "ann", "--role", "admin").status == 0
    assert advrad("keys", "list", path).out == "line-2  inspect\nann  admin\n"
    assert advrad("keys", "remove", path, "--name", "line-2").status == 0
    assert advrad("keys", "list", path).out == "ann  admin\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("add", "F", "--name", "a", "--role", "boss"), "--role boss: is unknown; choose inspect, review, admin"),
        (("add", "F", "--name", "a b", "--role", "admin"), "--name a b: cannot be the name of a key"),
        (("remove", "F", "--name", "a"), "advrad keys add"),
        (("list", "F"), "the keys cannot be read"),
    ],
)
def test_a_wrong_command_about_keys_is_one_line(
    advrad: trained_run.Cli, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    done = advrad("keys", *(tmp_path / "keys" if part == "F" else part for part in arguments))
    assert done.status == 2
    assert text in done.one_error_line()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0: can be reached from other machines, which needs keys"),
        (("--host", "::"), "needs keys"),
        (("--host", "example.org"), "needs keys"),
        (("--port", "99999"), "--port 99999: must be at most 65535"),
        (("--queue", "0"), "--queue 0: must be at least 1"),
        (("--tls-key", "x"), "--tls-certificate: is missing"),
        (("--keys", "missing"), "the keys cannot be read"),
    ],
)
def test_a_wrong_option_is_one_line(
    advrad: trained_run.Cli, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    done = advrad("serve", tmp_path, "--data", tmp_path / "data", *arguments)
    assert done.status == 2
    assert text in done.one_error_line()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        (["a/run", "b/run"], "two products are named run"),
        (["x y=a"], "'x y' cannot be the name of a product"),
        (["=a"], "cannot be the name"),
        (["/"], "cannot be the name"),
        (["..=a"], "cannot be the name"),
    ],
)
def test_products_need_names(advrad: trained_run.Cli, tmp_path: Path, runs: list[str], text: str) -> None:
    done = advrad("serve", *runs, "--data", tmp_path / "data")
    assert (done.status, text in done.one_error_line()) == (2, True)


def test_a_missing_model_is_one_line(advrad: trained_run.Cli, tmp_path: Path) -> None:
    done = advrad("serve", tmp_path / "nothing", "--data", tmp_path / "data")
    assert done.status == 2
    assert str(tmp_path / "nothing") in done.err.splitlines()[-1]


def test_what_was_taken_is_finished_before_the_stop(served_run: Path, tmp_path: Path, widgets: Path) -> None:
    picture = (widgets / "train" / "good" / "000.png").read_bytes()
    answers: list[int] = []
    options = ("--queue", "200", "--deadline-s", "300", "--stop-s", "300")
    with serving(served_run, tmp_path, *options) as (process, address, log):
        assert httpx.get(f"{address}/readyz", timeout=60).status_code == 200
        slow = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")

        def send(name: str) -> None:
            files = [("files", (f"{name}{number}.png", picture, "image/png")) for number in range(32)]
            answer = httpx.post(f"{address}/v1/products/widget/inspections", files=files, timeout=300)
            answers.extend("id" in one for one in answer.json()["inspections"])

        senders = [threading.Thread(target=send, args=(name,)) for name in "abc"]
        for sender in senders:
            sender.start()
        _wait(lambda: {one["file_name"][0] for one in history(address)} == set("abc"))
        process.send_signal(signal.SIGTERM)
        for sender in senders:
            sender.join()
        assert process.wait(300) == 0
        slow.close()
    assert answers == [True] * 96
    rows = [json.loads(line) for line in log if line.startswith("{")]
    routes = {row["route"] for row in rows if row["event"] == "request"}
    assert routes == {"/readyz", "/v1/inspections", "/v1/products/{product}/inspections"}
    assert [line for line in log if not line.startswith("{")] == [
        "without --keys only this machine is served, and whoever uses it may do everything\n"
    ]
    with serving(served_run, tmp_path) as (_, address, _):
        assert len(history(address)) == 96


def history(address: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{address}/v1/inspections?limit=500", timeout=60).json()["inspections"]
    return found


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
