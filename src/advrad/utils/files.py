"""Atomic writing of files: a reader finds the whole file or the old one, never half of a file.

A file is written under a temporary name in the same folder and renamed when it is complete. A full disk, a read-only
folder or an interrupt leaves the old file unchanged and no temporary file behind.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from advrad.errors import OutputError

PART = ".part"
"""End of every temporary name, before the suffix of the file."""

_FIXES = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EACCES: "permission denied; choose a folder that may be written to",
    errno.EPERM: "permission denied; choose a folder that may be written to",
    errno.EROFS: "the disk is read-only; write elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.EISDIR: "a folder of this name is in the way; choose another name",
    errno.EEXIST: "a file of this name is in the way; choose another name",
    errno.ENOTEMPTY: "a folder of this name is in the way; choose another name",
    errno.ENOENT: "the folder is missing; create it first",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def explain(error: OSError) -> str:
    """Describe why a file could not be written, and the fix.

    Args:
        error: Error of the operating system.

    Example:
        >>> explain(OSError(errno.EROFS, "read-only"))
        'the disk is read-only; write elsewhere'
    """
    known = _FIXES.get(error.errno) if error.errno is not None else None
    if known:
        return known
    if error.errno is None and "requested and" in str(error):
        # NumPy reports a short write without an error number.
        return "the file is too short, the disk is probably full; free some space or write elsewhere"
    text = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{text}; check the disk and the path"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` when the block ends without an error.

    The temporary file lies in the same folder and has the same suffix. If the block raises, the temporary file is
    deleted and ``path`` is unchanged. The block should only write: each OSError in it counts as a failure to write.

    Args:
        path: Path of the file; its folder must exist. A link stays, and the file that it names is written. A device or
            a pipe, such as ``/dev/stdout``, is not replaced: the finished file is copied into it.

    Yields:
        The temporary path.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory(prefix="advrad-") as folder:
                temporary = Path(folder, f"file{path.suffix}")
                yield temporary
                with temporary.open("rb") as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
            return
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        # A short random name stays legal for long file names, and two writers of one file do not collide.
        temporary = place.with_name(f".{secrets.token_hex(6)}{PART}{path.suffix}")
        try:
            yield temporary
            os.replace(temporary, place)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {explain(error)}") from error


def is_stream(path: Path) -> bool:
    """Whether a path names no file that can be replaced: a device, a pipe, or an open file of this process.

    Args:
        path: Path to look at; it need not exist.

    Example:
        >>> is_stream(Path("/dev/stdout")), is_stream(Path("report.html"))
        (True, False)
    """
    place = os.path.abspath(path)
    if place in ("/dev/stdin", "/dev/stdout", "/dev/stderr") or place.startswith(("/dev/fd/", "/proc/")):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8 with newlines as they are.

    Args:
        path: Path of the file; its folder must exist.
        text: Content.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, values: Any) -> None:
    """Write an indented JSON file atomically.

    Args:
        path: Path of the file; its folder must exist.
        values: Plain JSON values.

    Raises:
        OutputError: The file cannot be written.
        ValueError: A number is NaN or infinite, which JSON cannot hold.
    """
    write_text(path, json_text(values))


def json_text(values: Any) -> str:
    r"""The text of an indented JSON file.

    Args:
        values: Plain JSON values.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.

    Example:
        >>> json_text({"a": 1})
        '{\n  "a": 1\n}\n'
    """
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def make_folder(path: Path, *, private: bool = False) -> Path:
    """Create a folder and its parents; an existing folder is kept.

    Args:
        path: Path of the folder.
        private: Whether only the user who runs this may look into a folder that is made. Parents and folders that
            exist keep their permissions.

    Returns:
        The path.

    Raises:
        OutputError: The folder cannot be created.
    """
    path = Path(path)
    try:
        path.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be created: {explain(error)}") from error
    return path


def check_folder(path: Path) -> None:
    """Check that a folder can be made, or written to if it exists, before a long computation. Nothing is made.

    Args:
        path: Path of the folder.

    Raises:
        OutputError: A part of the path is a file, or permission is denied.
    """
    there = Path(path).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"{path}: the folder cannot be created: {there} is a file; choose another path")
    if not os.access(there, os.W_OK):
        raise OutputError(f"{path}: the folder cannot be created: {_FIXES[errno.EACCES]}")


def ensure_writable(path: Path) -> None:
    """Check that a file can be written, before a long computation of its content.

    Args:
        path: Path of the file; missing parent folders are created.

    Raises:
        OutputError: The file cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if is_stream(path):
        return
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written: {_FIXES[errno.EACCES]}")
