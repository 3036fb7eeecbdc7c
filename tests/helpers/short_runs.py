"""Training runs of a few steps, and reporters that record or interrupt them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import trained_run

from advrad.training.options import RunOptions
from advrad.utils.progress import SilentReporter, TrainingState


def replace(options: RunOptions, **changes: object) -> RunOptions:
    return options.model_copy(update=changes)


LEAN = RunOptions(denoiser="lean", steps=6, size_px=64, false_alarm_rate=0.2, precision="float32", batch_size=4)
#: With the score of the paper, because choosing one takes longer than everything else; `LEAN` chooses.
TINY = RunOptions(steps=2, preset="tiny", score="paper", false_alarm_rate=0.2, precision="float32", batch_size=4)


@contextmanager
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use tiny networks on one thread: several threads would round in another order, and be slower."""
    trained_run.shrink(monkeypatch)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


class StopAt(SilentReporter):
    """Interrupts a run after a step, or when a stage begins."""

    def __init__(self, step: int | None = None, stage: str | None = None) -> None:
        self.last, self.title = step, stage

    def step(self, state: TrainingState) -> None:
        if state.step == self.last:
            raise KeyboardInterrupt

    def stage(self, title: str) -> None:
        if title == self.title:
            raise KeyboardInterrupt


class Listener(SilentReporter):
    """Records the progress of a run: its stages, its notes and its training steps."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.steps: list[int] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, state: TrainingState) -> None:
        self.steps.append(state.step)
