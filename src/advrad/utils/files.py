"""Writing files so that a reader never meets half of one.

Everything that is written goes to a temporary name in the same folder and takes its real name only when it is
complete. A full disk, a read-only folder or an interrupt leaves the old file as it was and nothing beside it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from advrad.errors import OutputError

PART = ".part"
"""What every temporary name ends in, before the suffix of the file to be."""

_MENDS = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EACCES: "permission denied; choose a folder that may be written to",
    errno.EPERM: "permission denied; choose a folder that may be written to",
    errno.EROFS: "the disk is read-only; write elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.EISDIR: "a folder of this name is in the way; choose another name",
    errno.EEXIST: "a file of this name is in the way; choose another name",
    errno.ENOTEMPTY: "a folder of this name is in the way; choose another name",
    errno.ENOENT: "the folder is missing; make it first",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def explain(error: OSError) -> str:
    """Say in words why a file could not be written, and what to do about it."""
    known = _MENDS.get(error.errno) if error.errno is not None else None
    if known:
        return known
    if error.errno is None and "requested and" in str(error):
        # numpy's words for a short write, which comes without a number.
        return "it came out too short, the disk is probably full; free some space or write elsewhere"
    text = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{text}; check the disk and the path"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends well.

    The temporary file lies in the same folder and has the same suffix. Whatever ends the block otherwise, the
    temporary file is deleted and ``path`` is left as it was. The block should only write: each OSError in it
    counts as a failure to write.

    Args:
        path: the file to be; its folder must exist.

    Raises:
        OutputError: the file cannot be written; names ``path`` and the mend.
    """
    path = Path(path)
    # A short random name: long names stay legal, and two writers of one file do not meet.
    temporary = path.with_name(f".{secrets.token_hex(6)}{PART}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {explain(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with plain newlines, all of it or nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as indented JSON, all of it or nothing.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a number is NaN or infinite, which JSON does not know.
    """
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, if they are not there yet.

    Raises:
        OutputError: the folder cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {explain(error)}") from error
    return path


def make_place(path: Path) -> None:
    """See to it that a file can be written, before minutes are spent on what shall be in it.

    Args:
        path: of the file; folders above it that are missing are made.

    Raises:
        OutputError: it could not be written.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written: {_MENDS[errno.EACCES]}")
