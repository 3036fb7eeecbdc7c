"""Progress of long work: one interface for training, attacks, certificates and everything else that takes a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a training run is after a step.

    Attributes:
        step: Number of steps done, >= 1.
        steps: Number of steps in all.
        loss: Training loss, averaged over the last steps.
        images_per_s: Training images per second.
        elapsed_s: Seconds since the training began or was resumed.
        left_s: Estimated seconds until the last step.
    """

    step: int
    steps: int
    loss: float
    images_per_s: float
    elapsed_s: float
    left_s: float


class ProgressReporter(Protocol):
    """Receives the progress of a long computation.

    Every method may do nothing. An exception that a method raises stops the computation; what is finished stays saved.

    Example:
        >>> from advrad.utils.progress import SilentReporter
        >>> class Printer(SilentReporter):
        ...     def update(self, done: int, total: int) -> None:
        ...         print(f"{done} of {total}")
        >>> Printer().update(1, 2)
        1 of 2
    """

    def stage(self, title: str) -> None:
        """Begin a stage, such as "Training"."""

    def update(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` items of this stage are finished."""

    def step(self, state: TrainingState) -> None:
        """Report a training step."""

    def note(self, text: str) -> None:
        """Pass on a message that the user should see, such as a skipped file."""


class SilentReporter:
    """Ignores all progress. A base class for reporters that handle only some of the events."""

    def stage(self, title: str) -> None:
        """Ignore the stage."""

    def update(self, done: int, total: int) -> None:
        """Ignore the count."""

    def step(self, state: TrainingState) -> None:
        """Ignore the step."""

    def note(self, text: str) -> None:
        """Ignore the message."""


SILENT: ProgressReporter = SilentReporter()
"""The default reporter: it ignores all progress."""


@dataclass
class Counter:
    """Counts the finished items of a stage and reports them.

    Args:
        progress: Receives the count.
        total: Number of all items.
        done: Number of finished items.

    Example:
        >>> counter = Counter(CallbackReporter(lambda done, total: print(f"{done} of {total}")), 5)
        >>> counter.advance(2)
        2 of 5
    """

    progress: ProgressReporter
    total: int
    done: int = 0

    def advance(self, items: int = 1) -> None:
        """Report that further items are finished; more than all of them are never reported."""
        self.done = min(self.done + items, self.total)
        self.progress.update(self.done, self.total)


class CallbackReporter(SilentReporter):
    """Calls a plain function with the progress; stages and messages are ignored.

    Training steps count as items: step 3 of 100 calls ``callback(3, 100)``.

    Args:
        callback: Function that takes the number of finished items and the number of all items.

    Example:
        >>> from advrad.utils.progress import CallbackReporter
        >>> CallbackReporter(lambda done, total: print(f"{done} of {total}")).update(1, 2)
        1 of 2
    """

    def __init__(self, callback: Callable[[int, int], None]) -> None:
        self._callback = callback

    def update(self, done: int, total: int) -> None:
        """Call the function."""
        self._callback(done, total)

    def step(self, state: TrainingState) -> None:
        """Call the function with the step and the number of steps."""
        self._callback(state.step, state.steps)
