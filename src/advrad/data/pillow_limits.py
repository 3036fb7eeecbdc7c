"""Pillow's size limit and warnings, switched off while images are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from advrad.utils.forking import ForkSafeLock


class _PillowLimits:
    """Switches off Pillow's own size limit and warnings while any thread reads, and restores them afterwards.

    Pillow's limit is a global variable, checked while a file is opened and for some formats while it is decoded: it
    warns from 89 million pixels on and refuses from 179 million on. Our limit is an argument, checked before decoding.
    Pillow's variable and Python's warning filters belong to the whole process, so the threads are counted: the first
    one changes them, the last one restores them.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock(self._restore)
        self._users = 0
        self._bound: int | None = None
        self._warnings: warnings.catch_warnings[None] | None = None

    @contextmanager
    def off(self) -> Iterator[None]:
        from PIL import Image

        with self._lock:
            if self._users == 0:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
                self._bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users = max(0, self._users - 1)
                if self._users == 0:
                    self._restore()

    def _restore(self) -> None:
        """Restore limit and warnings; in a forked child no thread reads."""
        self._users = 0
        if self._warnings is not None:
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = self._bound
            self._warnings.__exit__(None, None, None)
            self._warnings = None


PILLOW_LIMITS = _PillowLimits()
"""The one instance: what it changes belongs to the whole process."""
