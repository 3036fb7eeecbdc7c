"""Progress of long commands on standard error."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from advrad.cli.terminal import is_first_process, say
from advrad.utils.formatting import clock

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from advrad.utils.progress import TrainingState

_LINE_EVERY_S = 20.0


class Screen(AbstractContextManager["Screen"]):
    """A :class:`advrad.utils.progress.ProgressReporter` that shows bars on a terminal, and lines of text elsewhere.

    If several processes work together, only the first one prints.
    """

    def __init__(self) -> None:
        self.last_step: int | None = None
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._quiet = not is_first_process()
        self._printed_s = 0.0
        #: Items done, and the time, at the first update of this stage.
        self._first_update: tuple[int, float] | None = None
        if not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            self._bars.stop()

    def stage(self, title: str) -> None:
        """Begin a stage."""
        self._first_update = None
        if self._bars is not None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(title, total=None, words="")
        else:
            self._print(title)
            self._printed_s = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show how many items of the stage are finished, and the time left."""
        now = time.monotonic()
        if self._first_update is None or done < self._first_update[0]:
            self._first_update = (done, now)
        first, began = self._first_update
        left = f"  {clock((now - began) / (done - first) * (total - done))} left" if done > first else ""
        self._show(done, total, f"{done} of {total}{left}")

    def step(self, state: TrainingState) -> None:
        """Show a training step."""
        self.last_step = state.step
        words = (
            f"step {state.step} of {state.steps}  loss {state.loss:.4g}"
            f"  {state.images_per_s:.1f} images/s  {clock(state.left_s)} left"
        )
        self._show(state.step, state.steps, words)

    def note(self, text: str) -> None:
        """Print a message above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(text)

    def _show(self, done: int, total: int, words: str) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total, words=words)
        elif self._bars is None and time.monotonic() - self._printed_s > _LINE_EVERY_S:
            self._print(words)
            self._printed_s = time.monotonic()

    def _print(self, text: str) -> None:
        if not self._quiet:
            say(text)


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[words]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
