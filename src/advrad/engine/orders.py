"""Which tasks are to be begun, among them those whose process or machine died."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from advrad.engine.base import MOST_LOSSES
from advrad.engine.messages import encode
from advrad.errors import EngineError


@dataclass(slots=True)
class Order:
    """A task, and how many processes died over it one after the other."""

    task: Any
    losses: int = 0


class Orders:
    """The tasks that are not begun: those of dead processes first, then new ones, which are drawn one by one."""

    def __init__(self, tasks: Iterable[Any], left: Callable[[Any], Any]) -> None:
        self._new, self._again, self._left = iter(tasks), deque[Order](), left

    def next(self) -> Order | None:
        """The next task; None if there is none now."""
        if self._again:
            return self._again.popleft()
        return next(map(Order, self._new), None)

    def lost(self, order: Order, cause: str) -> None:
        """Keep what is left of a task whose process died.

        Raises:
            EngineError: It is one of several in a row over this task, without any progress.
        """
        rest = self._left(order.task)
        if rest is None:
            return
        losses = order.losses + 1 if encode(rest) == encode(order.task) else 1
        if losses >= MOST_LOSSES:
            shown = textwrap.shorten(str(rest), 80, placeholder="...")
            raise EngineError(
                f"{losses} processes died over one task, the last one {cause}: {shown}; if the machine is short of"
                f" memory, use fewer jobs"
            )
        self._again.append(Order(rest, losses))
