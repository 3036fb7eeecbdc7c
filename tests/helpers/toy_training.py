"""A training of a second or two; also a program, to be killed or run in several processes.

python toy_training.py FOLDER STEPS PAUSE_S
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy_models import TINY, stack

import advrad.training.trainer
from advrad.denoisers.lean import LeanDenoiser
from advrad.training.batches import TrainConfig, View
from advrad.training.trainer import Trainer, fit, make_accelerator
from advrad.utils.progress import SILENT, SilentReporter, TrainingState

TESTS = Path(__file__).resolve().parents[1]
STATE = "state.safetensors"

State = tuple[dict[str, str], dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]]


def config(steps: int = 12, **changes: object) -> TrainConfig:
    values = {
        "steps": steps,
        "size_px": 32,
        "views": (View(image_px=32, window_px=16), View(image_px=16, window_px=16)),
        "batch_size": 4,
        "precision": "float32",
    }
    return TrainConfig(**values | changes)


def trainer(settings: TrainConfig | None = None, seed: int = 0) -> Trainer:
    """A run at its first step."""
    torch.manual_seed(seed)
    settings = settings or config()
    return Trainer(LeanDenoiser(TINY), settings, make_accelerator(settings.precision))


class OnStep(SilentReporter):
    """Calls a function after every training step."""

    def __init__(self, report: Callable[[TrainingState], None]) -> None:
        self._report = report

    def step(self, state: TrainingState) -> None:
        self._report(state)


def train(
    folder: Path, settings: TrainConfig | None = None, report: Callable[[TrainingState], None] | None = None
) -> Trainer:
    """Train to the end, taking up the state in the folder if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = trainer(settings)
    if (folder / STATE).exists():
        made.load(folder / STATE)
    fit(made, stack(), folder, OnStep(report) if report else SILENT)
    return made


def state_in(folder: Path) -> State:
    """Everything in a state, bit by bit; the order of the notes in the file is arbitrary."""
    with safe_open(folder / STATE, framework="pt") as file:
        notes = dict(file.metadata())
    tensors = load_file(folder / STATE)
    assert len(tensors) > 50
    return notes, {name: (v.dtype, tuple(v.shape), v.numpy().tobytes()) for name, v in tensors.items()}


def step_in(folder: Path) -> int:
    with safe_open(folder / STATE, framework="pt") as file:
        return int(file.metadata()["step"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    advrad.training.trainer.SAVE_EVERY_S = 0.0
    train(Path(sys.argv[1]), config(int(sys.argv[2])), lambda _: time.sleep(float(sys.argv[3])))
