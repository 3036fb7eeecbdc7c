"""One run at a time in a folder of results: a second one is refused, and names the first."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from advrad.errors import OutputError
from advrad.utils.files import explain, write_json

#: The file that is locked, and the file that says who holds the lock.
_LOCK, _HOLDER = ".run.lock", ".run.json"


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Keep other runs out of a folder while the block runs, on this machine or on others that see the folder.

    The lock is the operating system's: it is free as soon as its process is dead, however it died.

    Args:
        folder: Folder of results, which exists.
        what: What a run is, such as "benchmark"; for the message.

    Raises:
        OutputError: Another run holds the folder, or it cannot be locked.

    Example:
        >>> with exclusive(Path("."), "benchmark"), exclusive(Path("."), "benchmark"):  # doctest: +ELLIPSIS
        ...     pass
        Traceback (most recent call last):
        advrad.errors.OutputError: .: another benchmark is at work here (process ...
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"{folder}: another {what} is at work here{_holder(folder)}; wait until it has ended, or name another"
            " folder"
        ) from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be locked: {explain(error)}") from error
    try:
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder / _HOLDER, {"process": os.getpid(), "machine": platform.node(), "begun": begun})
        yield
    finally:
        with suppress(OSError):  # it only words the message above
            (folder / _HOLDER).unlink()
        lock.release()


def _holder(folder: Path) -> str:
    """Who holds the lock, in words; empty if that is not written yet."""
    try:
        values = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return f" (process {values['process']} on {values['machine']}, begun {values['begun']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
