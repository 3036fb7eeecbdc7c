"""Files on this machine and in buckets: one way to list, describe and open them.

A name with a scheme, such as ``s3://bucket/images``, is a URL, which fsspec opens. Any other name is a path.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from advrad.errors import DataError
from advrad.utils.buckets import bucket_errors, is_url, open_bucket

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_WILD = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
#: Most names that braces may stand for.
_MOST_NAMES = 1_000_000
#: What file systems call that which changes when the content of a file does, the most certain first.
_MARKS = ("ETag", "etag", "md5Hash", "checksum", "content_md5", "mtime", "LastModified", "last_modified", "updated")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder.

    Attributes:
        name: Its path or URL.
        folder: Whether it is a folder.
        stamp: Text that changes when its content does, as far as the file system tells; its size at least.
    """

    name: str
    folder: bool
    stamp: str


def located(name: str, base: str) -> str:
    """Where a file lies, for a process in another working folder.

    Args:
        name: Path or URL.
        base: Folder in which a relative path begins.
    """
    return name if is_url(name) else os.path.join(base, name)


def open_file(name: str) -> IO[bytes]:
    """Open a file to read its bytes.

    Args:
        name: Path or URL.

    Returns:
        The file. One of a bucket raises a DataError when the bucket does not answer; so an OSError is always about
        this file, and others can still be read.

    Raises:
        OSError: A file of this machine cannot be opened, or one of a bucket does not exist.
        DataError: The bucket does not answer.
    """
    if not is_url(name):
        return open(name, "rb")
    files, path = open_bucket(name)
    with bucket_errors(name):
        return _BucketFile(files.open(path, "rb"), name)  # type: ignore[return-value]


def read_file(name: str) -> bytes:
    """Read a whole file; of a bucket by one request.

    Args:
        name: Path or URL.

    Raises:
        OSError: See :func:`open_file`.
        DataError: The bucket does not answer.
    """
    if not is_url(name):
        with open(name, "rb") as file:
            return file.read()
    files, path = open_bucket(name)
    with bucket_errors(name):
        content: bytes = files.cat_file(path)
        return content


def size_of(name: str) -> int:
    """Number of bytes of a file; 0 for one of a bucket, where it would cost a request.

    Args:
        name: Path or URL.

    Raises:
        OSError: A file of this machine cannot be looked at.
    """
    return 0 if is_url(name) else os.stat(name).st_size


def describe(name: str) -> Entry:
    """Say what a file or a folder is.

    Args:
        name: Path or URL.

    Raises:
        DataError: It does not exist, or the bucket does not answer.
    """
    if is_url(name):
        files, path = open_bucket(name)
    try:
        if is_url(name):
            with bucket_errors(name):
                return replace(_entry(files, files.info(path)), name=name)
        found = os.stat(name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({words_of(error)}); name images, folders or archives") from None
    return Entry(name, os.path.isdir(name), f"{found.st_size}:{found.st_mtime_ns}")


def stamp_of(name: str) -> str:
    """Text that changes when the content of a file does; that of a file which is not there says so.

    Args:
        name: Path or URL of a file.

    Raises:
        DataError: The bucket does not answer.
    """
    try:
        if not is_url(name):
            found = os.stat(name)
            return f"{found.st_size}:{found.st_mtime_ns}"
        files, path = open_bucket(name)
        with bucket_errors(name):
            return _entry(files, files.info(path)).stamp
    except OSError:
        return "missing"


def listed(name: str) -> list[Entry]:
    """What a folder of a bucket holds, in the order of the names.

    Args:
        name: URL of the folder.

    Raises:
        DataError: The bucket does not answer.
    """
    files, path = open_bucket(name)
    with bucket_errors(name):
        found = files.ls(path, detail=True)
        entries = [_entry(files, facts) for facts in found]
    own = files.unstrip_protocol(path).rstrip("/")
    return sorted((entry for entry in entries if entry.name.rstrip("/") != own), key=lambda entry: entry.name)


def expanded(name: str, leave_out: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """Names that a pattern stands for: braces such as ``{000..099}`` or ``{a,b}`` first, then ``*``, ``?`` and ``[]``.

    A file of this machine whose own name looks like a pattern is that file.

    Args:
        name: Path, URL or pattern of these.
        leave_out: Function that says which files ``*``, ``?`` and ``[]`` do not stand for.

    Yields:
        The names, in order.

    Raises:
        DataError: No file has such a name, or braces stand for too many names.

    Example:
        >>> list(expanded("shard-{08..10}.tar"))
        ['shard-08.tar', 'shard-09.tar', 'shard-10.tar']
    """
    if not is_url(name) and os.path.lexists(name):
        yield name
        return
    for one in _without_braces(name):
        if not _WILD.search(one):
            yield one
            continue
        found = [match for match in _matching(one) if not leave_out(match)]
        if not found:
            raise DataError(f"{one}: matches no file; check the pattern")
        yield from found


def words_of(error: Exception) -> str:
    """What an error says, in one line.

    Args:
        error: Error of a file system or of a decoder.

    Example:
        >>> words_of(PermissionError(13, "Permission denied"))
        'permission denied'
    """
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


class _BucketFile(io.RawIOBase):
    """A file of a bucket. What the bucket raises becomes a DataError, unlike what a decoder says about the bytes."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        with bucket_errors(self._name):
            return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with bucket_errors(self._name):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _entry(files: AbstractFileSystem, facts: dict[str, Any]) -> Entry:
    mark = next((facts[key] for key in _MARKS if facts.get(key)), facts.get("created", ""))
    return Entry(files.unstrip_protocol(facts["name"]), facts["type"] == "directory", f"{facts.get('size')}:{mark}")


def _matching(pattern: str) -> list[str]:
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    files, path = open_bucket(pattern)
    with bucket_errors(pattern):
        return sorted(files.unstrip_protocol(found) for found in files.glob(path))


def _without_braces(name: str) -> Iterator[str]:
    match = _BRACES.search(name)
    if match is None:
        yield name
        return
    before, after = name[: match.start()], name[match.end() :]
    bounds = _RANGE.fullmatch(match.group(1))
    if bounds is None:
        if "," not in match.group(1):
            raise DataError(f"{name}: the braces are neither a range such as {{000..099}} nor names such as {{a,b}}")
        middle: Iterator[str] = iter(match.group(1).split(","))
    else:
        first, last = int(bounds.group(1)), int(bounds.group(2))
        if not 0 <= last - first < _MOST_NAMES:
            raise DataError(f"{name}: the range must go up, and hold at most {_MOST_NAMES} names")
        width = len(bounds.group(1)) if bounds.group(1).startswith("0") else 0
        middle = (f"{number:0{width}d}" for number in range(first, last + 1))
    for part in middle:
        for rest in _without_braces(after):
            yield f"{before}{part}{rest}"
