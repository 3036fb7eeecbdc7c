"""Lists of paths, as other programs write them, in a file or on standard input.

Understood are names on lines of their own, or with a zero byte after each (``find -print0``); UTF-8 with or without a
byte-order mark, or UTF-16 as Windows PowerShell writes it; and line ends of any system. Spaces at the ends, quotation
marks and backslashes count as parts of a name only where such a file exists.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CHUNK = 1 << 16


def names_in(stream: BinaryIO) -> Iterator[str]:
    r"""Names of files in a list, each as soon as it was read; empty lines are left out.

    Args:
        stream: Open list.

    Example:
        >>> import io
        >>> list(names_in(io.BytesIO(b"a.png\r\n\r\nb.png")))
        ['a.png', 'b.png']
    """
    for text, exact in _names(stream):
        if exact:
            if text:
                yield text
        elif (name := existing_name(text.strip("\r\n\v\f"))) is not None:
            yield name


def existing_name(line: str) -> str | None:
    """The name in a line: as it is, or the first of its readings that exists.

    Args:
        line: Line without its end.

    Returns:
        The name; None for an empty line.
    """
    bare = line.strip()
    if not bare:
        return None
    quoted = bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'" else bare
    for name in (line, bare, quoted, quoted.replace("\\", "/")):
        try:
            if os.path.lexists(name):
                return name
        except ValueError:
            continue
    return quoted if quoted != bare else line.rstrip()


def _names(stream: BinaryIO) -> Iterator[tuple[str, bool]]:
    """Names, and whether each is exact: one with a zero byte behind it is."""
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    start = read(_CHUNK)
    while start and any(mark.startswith(start) and mark != start for mark, _ in _MARKS):
        more = read(_CHUNK)
        if not more:
            break
        start += more
    mark, encoding = next(((mark, name) for mark, name in _MARKS if start.startswith(mark)), (b"", None))
    if encoding is None and _is_utf16(start):
        encoding = "utf-16-le" if start[1] == 0 else "utf-16-be"
    start = start[len(mark) :]
    if encoding in (None, "utf-8"):
        zeros = b"\0" in start
        yield from ((os.fsdecode(name), zeros) for name in _split(start, read, b"\0" if zeros else b"\n"))
    else:
        newline = "\n".encode(encoding)
        for line in _split(start, read, newline, step=2):
            yield line.decode(encoding, errors="replace"), False


def _split(start: bytes, read: Callable[[int], bytes], separator: bytes, step: int = 1) -> Iterator[bytes]:
    """What lies between the separators; ``step`` is the number of bytes of a character."""
    left, found = start, True
    while found:
        begin = 0
        at = left.find(separator)
        while at >= 0:
            if at % step:  # in the middle of two characters
                at = left.find(separator, at + 1)
                continue
            yield left[begin:at]
            begin = at + len(separator)
            at = left.find(separator, begin)
        left = left[begin:]
        more = read(_CHUNK)
        left, found = left + more, bool(more)
    if left:
        yield left


def _is_utf16(start: bytes) -> bool:
    """Whether text has a zero byte beside each of its first characters, and such line ends, but no mark."""
    low, high = start[1:8:2], start[0:8:2]
    if len(start) < 8 or not (b"\n\0" in start or b"\0\n" in start):
        return False
    return (not any(low) and all(high)) or (not any(high) and all(low))
