"""Sign-ins in the audit log."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

REFUSED_ROWS, REFUSED_S = 100, 3600.0
"""Rows of refused sign-ins, and the seconds within which there are no more: strangers must not fill the disk."""

_SUBJECT = "page"


class _AuditLog(Protocol):
    """What is needed of the audit log."""

    def append(self, action: str, subject: str, by: str, facts: dict[str, Any] | None = None, /) -> object:
        """Append a row."""


class SignInLog:
    """Writes who signed in and out, and from where somebody tried to.

    Args:
        audit: The audit log.
        clock: Seconds that only grow.
    """

    def __init__(self, audit: _AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit, self._clock = audit, clock
        self._lock = threading.Lock()
        self._told: deque[float] = deque(maxlen=REFUSED_ROWS)
        self._untold = 0

    def signed_in(self, name: str, address: str) -> None:
        """Write that somebody signed in.

        Args:
            name: Name of the key.
            address: Where the request came from.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        self._audit.append("sign in", _SUBJECT, name, {"address": address})

    def signed_out(self, name: str, address: str) -> None:
        """Write that somebody signed out.

        Args:
            name: Name of the key.
            address: Where the request came from.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        self._audit.append("sign out", _SUBJECT, name, {"address": address})

    def refused(self, address: str) -> None:
        """Write that somebody tried to sign in with a wrong key.

        Of more than 100 within an hour, no row is written; the next row tells how many there were.

        Args:
            address: Where the request came from.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        with self._lock:
            now = self._clock()
            if len(self._told) == REFUSED_ROWS and now - self._told[0] < REFUSED_S:
                self._untold += 1
                return
            self._told.append(now)
            untold, self._untold = self._untold, 0
        more = {"not_written_before": untold} if untold else {}
        self._audit.append("refuse sign in", _SUBJECT, "advrad", {"address": address} | more)
