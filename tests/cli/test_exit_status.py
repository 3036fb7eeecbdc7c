"""How commands end: one line and a status for an expected error, a traceback for an unexpected one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer

from advrad.cli.exit_status import status_of, terminated
from advrad.errors import ConfigError, ImageError, TrainingDivergedError


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(("result", "status"), [(0, 0), (130, 130), (None, 0), ("done", 0)])
def test_a_result_becomes_a_status(result: object, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: result) == status
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("--size 3:\n  is  odd"), 2, "error: --size 3: is odd"),
        (ImageError(Path("a\udcff.png"), "is empty"), 2, "error: a\\udcff.png: is empty"),
        (TrainingDivergedError("diverged"), 1, "error: diverged"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (MemoryError(), 1, "not enough memory"),
        (torch.cuda.OutOfMemoryError("2 GiB"), 1, "not enough memory"),
        (RuntimeError("can't allocate memory: 2 GiB"), 1, "not enough memory"),
        (PermissionError(13, "Permission denied", "out"), 2, "error: out: permission denied"),
        (OSError(28, "No space left on device"), 2, "error: standard output: the disk is full"),
    ],
)
def test_an_error_becomes_a_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(raising(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("advrad: ") and line in err


def test_exit_keeps_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(raising(typer.Exit(3))) == 3
    assert capsys.readouterr().err == ""


def test_an_unexpected_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        status_of(raising(ZeroDivisionError()))


_INTERRUPTED = """
import os, signal, time
from advrad.cli.exit_status import terminated

before = signal.getsignal(signal.SIGTERM)
try:
    with terminated():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGTERM) == before)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_sigterm_interrupts_only_inside_the_context() -> None:
    # In a process of its own: a signal that is not caught would end the process of the tests.
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n")


def test_signals_stay_as_they_are_outside_the_main_thread() -> None:
    done: list[int] = []

    def work() -> None:
        with terminated():
            done.append(status_of(lambda: 7))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [7]
