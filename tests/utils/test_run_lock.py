"""One run at a time in a folder, however the run before it ended."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.utils.run_lock import exclusive

HOLDS = """
import sys, time
from pathlib import Path
from advrad.utils.run_lock import exclusive
with exclusive(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with exclusive(tmp_path, "run"):
        with pytest.raises(OutputError) as caught, exclusive(tmp_path, "run"):
            pytest.fail("two runs in one folder")
        assert str(caught.value).startswith(
            f"{tmp_path}: another run is at work here (process {os.getpid()} on {platform.node()}, begun 2"
        )
        assert str(caught.value).endswith("; wait until it has ended, or name another folder")
    with exclusive(tmp_path, "run"):
        pass
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path, "run"):
        raise KeyboardInterrupt
    with exclusive(tmp_path, "run"):
        pass


def test_a_killed_run_frees_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        with pytest.raises(OutputError, match=rf"process {process.pid} on"), exclusive(tmp_path, "run"):
            pytest.fail("two runs in one folder")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    with exclusive(tmp_path, "run"):
        pass


def test_who_holds_it_need_not_be_known(tmp_path: Path) -> None:
    with exclusive(tmp_path, "run"):
        (tmp_path / ".run.json").write_text("{", encoding="utf-8")
        with pytest.raises(OutputError, match="another run is at work here; wait"), exclusive(tmp_path, "run"):
            pytest.fail("two runs in one folder")


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"file: cannot be locked: "), exclusive(tmp_path / "file", "run"):
        pytest.fail("nothing is locked")
