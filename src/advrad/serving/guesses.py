"""How many wrong keys an address may bring before it must wait.

Nobody guesses a key of 256 random bits. The bound is for what comes with guessing: work, and rows of the audit log.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import structlog

WINDOW_S = 60.0
"""Seconds in which wrong keys are counted, and after which an address may try again."""

_MOST_ADDRESSES = 4096


class Guesses:
    """Counts the wrong keys of each address.

    From an address that brought too many, no key counts until the window ends, be it right or wrong, but those that
    were right from there before: a machine that holds an old key must not stop the others behind the same router. What
    is counted is bounded: of more than 4096 addresses, and of as many right keys, the oldest are forgotten.

    Args:
        most: Wrong keys of an address within a window.
        clock: Seconds that only grow.

    Example:
        >>> guesses = Guesses(most=20, clock=lambda: 100.0)
        >>> [guesses.weigh("10.0.0.7", None) for _ in range(2)]
        [0, 0]
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._lock = threading.Lock()
        #: Start of the window and number of wrong keys, by address.
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def weigh(self, address: str, digest: str | None) -> int:
        """Take note of a key that came in.

        Args:
            address: Where it came from.
            digest: SHA-256 of the key if it was right; None if it was wrong.

        Returns:
            0 if the key counts; else the seconds to wait, because too many wrong ones came from there.
        """
        place = network_of(address)
        with self._lock:
            if digest is not None and (place, digest) in self._right:
                self._right.move_to_end((place, digest))
                return 0
            now = self._clock()
            begun, n = self._wrong.get(place, (now, 0))
            if now - begun >= WINDOW_S:
                begun, n = now, 0
            if n >= self._most:
                return max(1, math.ceil(begun + WINDOW_S - now))
            if digest is not None:
                _keep(self._right, (place, digest), None)
                return 0
            _keep(self._wrong, place, (begun, n + 1))
        if n + 1 == self._most:
            structlog.get_logger("advrad.access").warning("too many wrong keys", address=place)
        return 0


def network_of(address: str) -> str:
    """What counts as one address: of IPv6, all that one customer of a network has (/64).

    Args:
        address: Address of a client; any other text stands for itself.

    Example:
        >>> network_of("192.0.2.7"), network_of("::ffff:192.0.2.7"), network_of("2001:db8::1:2")
        ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed, 64), strict=False))


def _keep(table: OrderedDict[Any, Any], key: Hashable, value: object) -> None:
    table[key] = value
    if len(table) > _MOST_ADDRESSES:
        table.popitem(last=False)
