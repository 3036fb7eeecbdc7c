"""Work for engines: functions of a module, because other processes import them."""

from __future__ import annotations

import os
from collections.abc import Iterator


def squares(count: int) -> Iterator[tuple[int, int]]:
    """The first squares, each with the number of the process."""
    for number in range(count):
        yield number * number, os.getpid()
