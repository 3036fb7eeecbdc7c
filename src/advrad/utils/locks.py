"""Leases on pieces of work, so that several processes, also on several machines, can share a folder of results.

A lease is a file that only one process can create. Its owner touches it regularly. A lease whose owner is dead, or that
was not touched for a long time, is void, and another process may take it over. All times are those of the folder's file
system, so the machines need not agree on the time.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from advrad.errors import OutputError
from advrad.utils.files import explain, make_folder

#: Seconds between two touches of a lease, and seconds without a touch after which it is void.
BEAT_S, VOID_S = 20.0, 300.0


@contextmanager
def lease(folder: Path, name: str) -> Iterator[bool]:
    """Hold a lease on a piece of work while the block runs.

    Two processes that find a void lease at the same moment may both take it. Then a piece of work is done twice;
    nothing is lost, because results are written atomically.

    Args:
        folder: Folder of the leases; created if missing.
        name: Name of the work, a file name without suffix.

    Yields:
        True if this process holds the lease, False if another process does.

    Raises:
        OutputError: The lease cannot be written.
    """
    path = make_folder(folder) / f"{name}.claim"
    if not (_make(path) or (_void(path) and _taken_over(path))):
        yield False
        return
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, done), daemon=True)
    heart.start()
    try:
        yield True
    finally:
        done.set()
        heart.join()
        with suppress(OSError):
            path.unlink()


def live(folder: Path) -> tuple[str, ...]:
    """Names of the work that some process holds a lease on.

    Args:
        folder: Folder of the leases.
    """
    found = sorted(folder.glob("*.claim")) if folder.is_dir() else []
    return tuple(path.stem for path in found if not _void(path))


def _make(path: Path) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump({"home": _home(), "process": os.getpid()}, file)
    except FileExistsError:
        return False
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise OutputError(f"{path}: cannot be written: {explain(error)}") from error
    return True


def _taken_over(path: Path) -> bool:
    aside = path.with_name(f".{secrets.token_hex(6)}.void")
    try:
        os.rename(path, aside)  # succeeds in one process only
        aside.unlink()
    except OSError:
        return False
    return _make(path)


def _void(path: Path) -> bool:
    """Whether the owner of a lease is dead, or did not touch it for too long."""
    try:
        touched = path.stat().st_mtime
        owner = json.loads(path.read_text(encoding="utf-8"))
        if owner["home"] == _home() and not _runs(int(owner["process"])):
            return True
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        touched = min(touched, path.stat().st_mtime) if path.exists() else 0.0  # written just now, or damaged
    return _now(path.parent) - touched > VOID_S


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system."""
    probe = folder / f".{secrets.token_hex(6)}.clock"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return 0.0  # no lease is void if the clock cannot be read
    return now


def _home() -> str:
    """Where a process number is unique: this machine since its start, and this container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)
