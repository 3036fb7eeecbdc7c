"""Find image files that are half-written.

A copy that breaks off on a file system that allots space ahead has its full length, and ends in zero bytes. Many
decoders read it without a word: as black, as grey, or as black rows at the top of a BMP, which is stored upside down.

Formats with an end mark, or with compressed data, tell for certain: compressed data do not end in many zero bytes. In
uncompressed data, zeros are black, so black rows may be what the image shows. They count as damage where they begin in
the middle of a row, or of the file's blocks, and what is stored just before them holds hardly any zero. A black
background has zeros beside the part. Else the image is read, and the doubt is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from advrad.errors import ImageError

#: Number of zero bytes at the end of a file from which it is examined.
FEW_ZEROS = 32

_READ = 65536
#: Copies break off at multiples of this, in bytes; up to three bytes before it may belong to the filling of a row.
_BLOCK, _FILLING = 512, 3
#: Least number of rows, and of values, that are zero at the end of damaged uncompressed data.
_ZERO_ROWS, _ZERO_VALUES = 2, 512
#: Rows before the zeros that are looked at, and the share of zeros in them that speaks against damage.
_ROWS_BEFORE, _ZEROS_BEFORE = 4, 0.02


def check_end(path: Path) -> int | None:
    """Refuse a file whose end is missing and filled with zeros, as far as its format tells for certain.

    Args:
        path: Image file.

    Returns:
        Position from which the file holds zeros only; None if it ends in few of them.

    Raises:
        ImageError: The file is half-written.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        zeros = _zeros_before(file, size)
        if zeros < FEW_ZEROS:
            return None
        if zeros == size:
            raise ImageError(path, "holds nothing but zero bytes; copy it again")
        file.seek(0)
        start = file.read(16)
        if _is_cut(file, start, size - zeros, size):
            raise ImageError(path, f"is half-written: its last {zeros} bytes are zero; copy it again")
    return size - zeros


def _is_cut(file: BinaryIO, start: bytes, zeros_from: int, size: int) -> bool:
    """Whether the zeros at the end of a file stand where data must be."""
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg_end(file) is None
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_end(file) is None
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp_cut(file, zeros_from, 8 + int.from_bytes(start[4:8], "little"))
    if start[4:8] == b"ftyp":
        return _boxes_cut(file, zeros_from, size)
    return False


def _zeros_before(file: BinaryIO, end: int) -> int:
    """Number of zero bytes in a file just before a position."""
    count = 0
    while count < end:
        begin = max(0, end - count - _READ)
        file.seek(begin)
        block = file.read(end - count - begin)
        kept = len(block.rstrip(b"\0"))
        count += len(block) - kept
        if kept:
            break
    return count


def _jpeg_end(file: BinaryIO) -> int | None:
    """Position of the end mark of a JPEG; None if there is none after the header."""
    file.seek(0)
    content = file.read()
    at = 2
    while content[at : at + 1] == b"\xff":
        marker = content[at + 1]
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:  # the compressed data follow; in them, FF stands before 00 or a restart mark only
            break
    found = content.find(b"\xff\xd9", at)
    return None if found < 0 else found


def _png_end(file: BinaryIO) -> int | None:
    """Position of the last chunk of a PNG; None if it is missing."""
    return next((at for kind, at in _png_chunks(file) if kind == b"IEND"), None)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and position of each chunk of a PNG, up to IEND or to where the file is damaged."""
    at, kind = 8, b""
    while kind != b"IEND":
        file.seek(at)
        header = file.read(8)
        kind = header[4:]
        if len(header) < 8 or not kind.isalpha():
            return
        yield kind, at
        at += 12 + int.from_bytes(header[:4], "big")


def png_ends_with_pixels(path: Path) -> bool:
    """Whether nothing follows the pixels of a PNG, so that its metadata are known before they are decoded.

    Args:
        path: PNG file.

    Returns:
        False also where the last chunk is missing.
    """
    with path.open("rb") as file:
        kinds = [kind for kind, _ in _png_chunks(file)]
    pixels = kinds.index(b"IDAT") if b"IDAT" in kinds else len(kinds)
    return kinds[-1:] == [b"IEND"] and set(kinds[pixels:]) == {b"IDAT", b"IEND"}


def _webp_cut(file: BinaryIO, zeros_from: int, end: int) -> bool:
    at = 12
    while at + 8 <= end:
        file.seek(at)
        header = file.read(8)
        kind, length = header[:4], int.from_bytes(header[4:], "little")
        if not kind.strip(b"\0"):
            return True
        if kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF") and zeros_from + FEW_ZEROS <= at + 8 + length:
            return True
        at += 8 + length + length % 2
    return False


def _boxes_cut(file: BinaryIO, zeros_from: int, size: int) -> bool:
    """Whether the zeros reach into the data of a HEIC or AVIF file."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        end = size if length == 0 else at + length
        if kind == b"mdat" and zeros_from + FEW_ZEROS <= end:
            return True
        if end <= at:
            return False
        at = end
    return False


def check_segments(path: Path, offsets: tuple[int, ...], lengths: tuple[int, ...], end_mark: bytes) -> None:
    """Check the compressed pieces of an image: strips or tiles of a TIFF.

    Args:
        path: Image file.
        offsets: Where the pieces begin.
        lengths: Their lengths in bytes.
        end_mark: What each piece must end with, but for a few bytes; empty if there is no such mark.

    Raises:
        ImageError: A piece is missing, cut short, or ends in zeros.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for offset, length in zip(offsets, lengths, strict=True):
            if length == 0 or offset + length > size:
                raise ImageError(path, "is cut short (truncated)")
            file.seek(offset + max(0, length - 2 * FEW_ZEROS))
            tail = file.read(min(length, 2 * FEW_ZEROS))
            if len(tail) - len(tail.rstrip(b"\0")) >= FEW_ZEROS or end_mark not in tail:
                raise ImageError(path, "is half-written: a part of its data is missing; copy it again")


def check_rows(path: Path, rows: npt.NDArray[Any], zeros_from: int) -> str:
    """Judge zeros at the end of uncompressed data.

    Args:
        path: Image file, which ends in zero bytes.
        rows: Values as they are stored, (h, w) or (h, w, c), rows in the order of the file.
        zeros_from: Position from which the file holds zeros only.

    Returns:
        A doubt in words; empty for none.

    Raises:
        ImageError: The zeros begin in the middle of a row, or with a block of the file, behind data without zeros.
    """
    values = rows if rows.ndim == 3 else rows[:, :, None]
    filled = np.flatnonzero(values.any(axis=(1, 2)))
    if not len(filled):
        return "it is black everywhere; look whether it is so or the file was not written"
    last = int(filled[-1])
    used = int(np.flatnonzero(values[last].any(axis=1))[-1]) + 1
    empty_rows = len(values) - 1 - last
    if empty_rows < _ZERO_ROWS or empty_rows * values[0].size < _ZERO_VALUES:
        return ""
    # The last pixel may be incomplete.
    before = np.concatenate([values[max(0, last - _ROWS_BEFORE) : last].ravel(), values[last, : used - 1].ravel()])
    if np.count_nonzero(before == 0) > _ZEROS_BEFORE * len(before):
        return ""
    inside, aligned = used < values.shape[1], -zeros_from % _BLOCK <= _FILLING
    if inside or aligned:
        where = "in the middle of a row" if inside else f"with a block of {_BLOCK} bytes"
        raise ImageError(
            path,
            f"seems to be half-written: {empty_rows} of the {len(values)} rows at the end of the file are zero, and"
            f" the zeros begin {where}; copy it again, or save it as PNG if it is black there",
        )
    return "the end of the file is zero, a whole number of rows; look whether it is black there or half-written"
