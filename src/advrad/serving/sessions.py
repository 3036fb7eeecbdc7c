"""The sessions of people who signed in on the page, in memory: they end after twelve hours and with the process."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

SESSION_S = 12 * 3600.0
"""Seconds that a session lasts."""

_MOST = 4096


@dataclass(frozen=True, slots=True)
class _Session:
    digest: str
    ends: float


class Sessions:
    """Open sessions; the oldest ends where there are too many.

    Example:
        >>> sessions = Sessions()
        >>> token = sessions.open("digest of a key")
        >>> sessions.digest(token)
        'digest of a key'
        >>> sessions.end(token)
        >>> sessions.digest(token) is None
        True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Session] = OrderedDict()

    def open(self, digest: str) -> str:
        """Open a session.

        Args:
            digest: SHA-256 of the key that opens it.

        Returns:
            A random token, which is stored nowhere.
        """
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._open[_name(token)] = _Session(digest, time.monotonic() + SESSION_S)
            while len(self._open) > _MOST:
                self._open.popitem(last=False)
        return token

    def digest(self, token: str) -> str | None:
        """Digest of the key that opened a session; None if there is no such session.

        Args:
            token: What the session is known by.
        """
        with self._lock:
            session = self._open.get(_name(token))
            if session is not None and session.ends > time.monotonic():
                return session.digest
            self._open.pop(_name(token), None)
        return None

    def end(self, token: str) -> None:
        """End a session, if there is one.

        Args:
            token: What the session is known by.
        """
        with self._lock:
            self._open.pop(_name(token), None)


def _name(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
