"""Identities of inspections: texts that sort by time, also when the clock is set back."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable

LENGTH = 26
"""Characters of an identity."""

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_FORM = re.compile(f"[0-7][{_DIGITS}]{{25}}")
_RANDOM_BITS, _STEP_BITS = 80, 56


def is_id(text: str) -> bool:
    """Whether a text has the form of an identity.

    Args:
        text: Text to test.

    Example:
        >>> is_id("01JDQH4F7B3M5N6P7Q8R9STVWX"), is_id("../../etc/passwd")
        (True, False)
    """
    return bool(_FORM.fullmatch(text))


class IdMaker:
    """Makes identities that grow: 48 bits of milliseconds and 80 random bits, written as a ULID of 26 characters.

    If the clock stands still or is set back, an identity is the one before plus a random step. The step keeps two
    processes apart that start from the same newest identity. Thread-safe.

    Args:
        newest: Newest identity in use; None if there is none. New ones sort after it.
        clock: Function that returns the time in seconds since 1970.

    Example:
        >>> make = IdMaker(None)
        >>> make() < make()
        True
    """

    def __init__(self, newest: str | None, clock: Callable[[], float] = time.time) -> None:
        self._last = 0 if newest is None else _decoded(newest)
        self._clock = clock
        self._turn = threading.Lock()

    def __call__(self) -> str:
        """Make the next identity."""
        with self._turn:
            fresh = (int(self._clock() * 1000) << _RANDOM_BITS) + secrets.randbits(_RANDOM_BITS)
            self._last = max(fresh, self._last + 1 + secrets.randbits(_STEP_BITS))
            return _encoded(self._last)


def _encoded(value: int) -> str:
    return "".join(_DIGITS[(value >> shift) & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


def _decoded(text: str) -> int:
    value = 0
    for digit in text:
        value = value * 32 + _VALUES[digit]
    return value
