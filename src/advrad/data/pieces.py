"""Refuse files that are cut into far more pieces than an image needs.

Decoders walk through the pieces one by one, so a file of a few megabytes could keep one busy for minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from advrad.errors import ImageError

#: Pages of a TIFF that are looked at; more are refused.
MOST_PAGES = 100
#: Number of pieces that any file may have; with more, each must have some bytes on average.
_MOST = 20_000
_LEAST_BYTES = 512
#: The same for the blocks of a GIF, which hold 255 bytes at most.
_LEAST_GIF_BYTES = 128
#: Times that a progressive JPEG may go over its pixels.
_MOST_SCANS = 50


def check_pieces(path: Path, start: bytes) -> None:
    """Refuse a PNG, JPEG or GIF that is cut into too many pieces.

    Args:
        path: Image file.
        start: Its first 16 bytes.

    Raises:
        ImageError: It has too many pieces.
    """
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        walk, least = _png_chunks, _LEAST_BYTES
    elif start.startswith(b"\xff\xd8\xff"):
        walk, least = _jpeg_segments, _LEAST_BYTES
    elif start.startswith((b"GIF87a", b"GIF89a")):
        walk, least = _gif_blocks, _LEAST_GIF_BYTES
    else:
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        for count, _ in enumerate(walk(file), start=1):
            if count > _MOST and count * least > size:
                raise _too_many(path)
        if walk is _jpeg_segments:
            file.seek(0)
            # In compressed data, FF stands before 00 or a restart mark only.
            if file.read().count(b"\xff\xda") > _MOST_SCANS:
                raise _too_many(path)


def check_piece_count(path: Path, count: int) -> None:
    """Refuse a file that says that it is cut into too many pieces.

    Args:
        path: Image file.
        count: Number of strips or tiles.

    Raises:
        ImageError: There are too many.
    """
    if count > _MOST and count * _LEAST_GIF_BYTES > path.stat().st_size:
        raise _too_many(path)


def _too_many(path: Path) -> ImageError:
    return ImageError(path, "is cut into far too many pieces; save it again")


def _png_chunks(file: BinaryIO) -> Iterator[None]:
    at = 8
    while True:
        file.seek(at)
        header = file.read(8)
        if len(header) < 8 or header[4:] == b"IEND":
            return
        yield
        at += 12 + int.from_bytes(header[:4], "big")


def _jpeg_segments(file: BinaryIO) -> Iterator[None]:
    """The segments before the compressed data; bytes between them count as segments, as decoders skip them singly."""
    file.seek(2)
    while header := file.read(2):
        yield
        if header[0] != 0xFF or header[1:] == b"\xff":
            file.seek(-1, os.SEEK_CUR)
        elif header[1:] in (b"\xda", b"\xd9"):
            return
        else:
            file.seek(max(0, int.from_bytes(file.read(2), "big") - 2), os.SEEK_CUR)


def _gif_blocks(file: BinaryIO) -> Iterator[None]:
    """The blocks of all frames."""
    file.seek(10)
    packed = file.read(3)
    file.seek(_table_bytes(packed[0]) if packed else 0, os.SEEK_CUR)
    while kind := file.read(1):
        yield
        if kind == b"\x21":
            file.read(1)
        elif kind == b"\x2c":
            place = file.read(9)
            file.seek(_table_bytes(place[8]) if len(place) == 9 else 0, os.SEEK_CUR)
            file.read(1)
        elif kind == b"\x3b":
            return
        else:
            continue
        while (length := file.read(1)) and length != b"\0":
            yield
            file.seek(length[0], os.SEEK_CUR)


def _table_bytes(packed: int) -> int:
    """Length of a table of colours."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0
