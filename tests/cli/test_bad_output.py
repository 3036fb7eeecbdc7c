"""Results that cannot be written, and interrupted commands: nothing is lost and nothing half-written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trained_run
from PIL import Image
from trained_run import MAIN, Cli


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


def test_output_below_a_file(cli: Cli, widget_run: Path, widgets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "out"
    image = trained_run.image(tmp_path / "part.png", 1)
    for command in (
        ["predict", widget_run, image, "-o", below],
        ["report", widget_run, widgets, "-o", below / "x.html"],
        ["evaluate", widget_run, widgets, "--scores", below / "x.jsonl"],
        ["certify", widget_run, widgets, "--radius", 0.05, "-o", below],
        ["train", widgets, "-o", below],
        ["train", widgets, "-o", tmp_path / "file"],
        ["demo", "-o", below],
    ):
        done = cli(*command)
        assert done.status == 2, command
        assert str(tmp_path / "file") in done.err.splitlines()[-1]
        assert "Traceback" not in done.err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the super-user may write everywhere")
def test_read_only_output(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    done = cli("predict", widget_run, trained_run.image(tmp_path / "part.png", 1), "-o", out)
    assert done.status == 2
    assert "permission denied" in done.one_error_line()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written(
    cli: Cli, run: Path, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    trained_run.shrink(monkeypatch)
    image, out = trained_run.image(tmp_path / "part.png", 1), tmp_path / "out"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("advrad.utils.files.os.replace", refuse)
    for command in (
        ["predict", run, image, "-o", out],
        ["report", run, widgets, "-o", out / "x.html"],
        ["evaluate", run, widgets, "--save"],
        ["certify", run, widgets, "--radius", 0.05, "--draws", 64, "--limit", 2],
        ["train", widgets, "-o", out / "new", "--steps", 1, "--size", 64],
    ):
        done = cli(*command)
        assert done.status == 2, command
        line = done.err.splitlines()[-1]
        assert line.startswith("advrad: error: ")
        assert "cannot be written" in line
        assert "Traceback" not in done.err
        assert done.out == ""
    assert not leftovers(tmp_path)
    assert not list(out.glob("*.*"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_standard_output(widget_run: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "info", widget_run, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "advrad: error: standard output: the disk is full; free some space or write elsewhere"
    ]


def test_too_little_memory_gives_a_clear_error(
    cli: Cli, widget_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.inference.judging

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(advrad.inference.judging, "draw_heat_map", refuse)
    done = cli("predict", widget_run, trained_run.image(tmp_path / "part.png", 1), "-o", tmp_path / "out")
    assert done.status == 1
    assert "not enough memory" in done.one_error_line()


#: The command line, which waits for a signal before it gives the second file of the fourth image its name.
HELD = f"""
import os, sys, time
real, named = os.replace, []
def replace(source, place, **rest):
    if os.path.dirname(os.fspath(place)) == sys.argv[-1]:
        named.append(place)
        if len(named) == 8:
            time.sleep(600)
    real(source, place, **rest)
os.replace = replace
{MAIN}
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_predict_leaves_only_whole_images(
    cli: Cli, widget_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    for seed in range(60):
        trained_run.image(tmp_path / "in" / f"{seed:03}.png", seed, size=96)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HELD, "predict", str(widget_run), str(tmp_path / "in"), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines() == ["advrad: interrupted"]
        assert not leftovers(out)
    written = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 6 <= len(written) < 120
    for path in written:
        with Image.open(path) as image:
            image.load()
    done = cli("predict", widget_run, tmp_path / "in", "-o", out)
    assert done.status == 0
    assert len(done.out.splitlines()) == 60
    assert len([path for path in out.iterdir() if not path.name.startswith(".")]) == 120
