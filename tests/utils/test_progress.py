"""The interface through which long computations report their progress."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import advrad
from advrad.utils.progress import SILENT, CallbackReporter, ProgressReporter, TrainingState

SOURCE = Path(advrad.__file__).parent


def report_everything(progress: ProgressReporter) -> None:
    progress.stage("Training")
    progress.note("one image was skipped")
    progress.update(1, 4)
    progress.step(TrainingState(step=3, steps=10, loss=0.5, images_per_s=8.0, elapsed_s=1.0, left_s=2.0))


def test_the_silent_reporter_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report_everything(SILENT)
    assert capsys.readouterr() == ("", "")


def test_a_callback_hears_of_items_and_steps() -> None:
    heard: list[tuple[int, int]] = []
    report_everything(CallbackReporter(lambda done, total: heard.append((done, total))))
    assert heard == [(1, 4), (3, 10)]


def test_every_parameter_called_progress_is_a_reporter() -> None:
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg) and node.arg in ("progress", "watcher", "callback", "report"):
                found.add((node.arg, ast.unparse(node.annotation) if node.annotation else ""))
    assert {annotation for name, annotation in found if name == "progress"} <= {
        "ProgressReporter",
        "ProgressReporter | Callable[[int, int], None]",
    }
    assert not [name for name, _ in found if name == "watcher"]
