"""Progress on the screen."""

from __future__ import annotations

import pytest

from advrad.cli import screen as module
from advrad.cli.screen import Screen
from advrad.utils.progress import ProgressReporter, TrainingState

STATE = TrainingState(step=5, steps=10, loss=0.25, images_per_s=12.5, elapsed_s=30, left_s=65)


def report(reporter: ProgressReporter) -> None:
    """Report one event of each kind."""
    reporter.stage("Training")
    reporter.step(STATE)
    reporter.note("skipped: a.png")
    reporter.stage("Evaluating")
    reporter.update(1, 3)
    reporter.update(2, 3)


def test_without_a_terminal_progress_is_lines_of_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINE_EVERY_S", -1.0)
    with Screen() as screen:
        report(screen)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:5] == [
        "Training",
        "step 5 of 10  loss 0.25  12.5 images/s  1:05 left",
        "skipped: a.png",
        "Evaluating",
        "1 of 3",
    ]
    assert err.splitlines()[5].startswith("2 of 3  ")
    assert screen.last_step == 5


def test_lines_of_progress_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        report(screen)
    assert capsys.readouterr().err.splitlines() == ["Training", "skipped: a.png", "Evaluating"]


def test_only_the_first_process_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(module, "_LINE_EVERY_S", -1.0)
    with Screen() as screen:
        report(screen)
    assert capsys.readouterr() == ("", "")
    assert screen.last_step == 5


def test_a_terminal_shows_bars_and_notes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Screen() as screen:
        report(screen)
    out, err = capsys.readouterr()
    assert out == "" and "skipped: a.png" in err
