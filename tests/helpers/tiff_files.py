"""TIFF files written by hand, tag by tag, and a slow reading of packed bits to compare with."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

SHORT, LONG = 3, 4


def pack_rows(values: npt.NDArray[np.integer], bits: int) -> bytes:
    """Values, (rows, values of a row), as rows of packed bits, each padded to whole bytes; the slow way."""
    rows = []
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)))
    return b"".join(rows)


def write_tiff(
    path: Path,
    data: bytes,
    width: int,
    height: int,
    bits: int | tuple[int, ...],
    *,
    order: str = "<",
    tags: Mapping[int, int | tuple[int, ...]] | None = None,
) -> None:
    """Write a TIFF of one strip. ``tags`` replaces or adds tags, as SHORT or, from 65536 on, LONG."""
    counts = bits if isinstance(bits, tuple) else (bits,)
    entries: dict[int, int | tuple[int, ...]] = {
        256: width,
        257: height,
        258: counts if len(counts) > 1 else counts[0],
        259: 1,
        262: 1,
        273: 8,
        277: len(counts),
        278: height,
        279: len(data),
        **(tags or {}),
    }
    directory_at = 8 + len(data) + len(data) % 2
    extra_at = directory_at + 2 + 12 * len(entries) + 4
    directory, extra = b"", b""
    for tag, value in sorted(entries.items()):
        many = value if isinstance(value, tuple) else (value,)
        kind, letter = (LONG, "I") if max(many) > 65535 else (SHORT, "H")
        packed = struct.pack(f"{order}{len(many)}{letter}", *many)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", extra_at + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, kind, len(many)) + place
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory_at)
    path.write_bytes(
        start
        + data
        + b"\0" * (len(data) % 2)
        + struct.pack(f"{order}H", len(entries))
        + directory
        + b"\0\0\0\0"
        + extra
    )
