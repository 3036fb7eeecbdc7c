"""Commands of a service, whose standard streams may be closed: no traceback, and no other file is written into."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trained_run import MAIN

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a shell")


def started(redirected: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `advrad ARGS` in a shell with redirections."""
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_closed_standard_input_is_no_list(widget_run: Path) -> None:
    done = started("<&-", "predict", widget_run)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "no image is given; name images or folders" in line


def test_with_all_streams_closed_the_work_is_done(widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    image, out, table = widgets / "test" / "dent" / "000.png", tmp_path / "out", tmp_path / "verdicts.csv"
    done = started("<&- >&- 2>&-", "predict", widget_run, image, "-o", out, "--csv", table)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len([path for path in out.iterdir() if path.suffix == ".png"]) == 2
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["path", str(image)]


def test_help_and_errors_need_no_streams(tmp_path: Path) -> None:
    assert started(">&- 2>&-", "--help").returncode == 0
    assert started(">&- 2>&-", "predict", tmp_path / "none", "a.png").returncode == 2


def test_a_reader_of_errors_that_ends_stops_no_work(widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    table = tmp_path / "verdicts.csv"
    command = [
        sys.executable,
        "-c",
        MAIN,
        "predict",
        str(widget_run),
        str(widgets / "test" / "good"),
        "--csv",
        str(table),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(timeout=120) == 0
    assert len(table.read_text().splitlines()) == 7
