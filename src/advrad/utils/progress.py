"""Progress of long work, told to whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Watcher(Protocol):
    """Hears of a run's progress; every method may do nothing."""

    def stage(self, words: str) -> None:
        """A new stage begins."""

    def count(self, done: int, total: int) -> None:
        """Progress inside a stage."""

    def step(self, progress: Progress) -> None:
        """A training step was taken."""

    def note(self, words: str) -> None:
        """Something worth telling."""


class Silent:
    """A watcher that says nothing."""

    def stage(self, words: str) -> None:
        """Ignore."""

    def count(self, done: int, total: int) -> None:
        """Ignore."""

    def step(self, progress: Progress) -> None:
        """Ignore."""

    def note(self, words: str) -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run, given to the caller after every step."""

    step: int
    steps: int
    loss: float
    images_per_s: float
    elapsed_s: float
    left_s: float
