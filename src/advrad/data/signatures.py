"""Which files are images by their first bytes, whatever their endings say."""

from __future__ import annotations

import re
from pathlib import Path

# fmt: off
RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf",
    ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
})
"""Endings of raw files of cameras, which are not read: many of them begin like a TIFF, and hold a small preview."""
# fmt: on

_UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", ".swp")
_BMP = re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL)
_PNM = re.compile(rb"P[1-6]\s\s*(#|\d)")
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF87a",
    b"GIF89a",
    b"8BPS",  # PSD
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")


def holds_image(path: Path) -> bool:
    """Whether a file that does not end like an image begins like one.

    Raw files of cameras and unfinished downloads never count, whatever they hold.

    Args:
        path: File, such as one without an ending.

    Example:
        >>> _ = Path("scan").write_bytes(b"GIF89a and more")
        >>> holds_image(Path("scan"))
        True
    """
    suffix = path.suffix.lower()
    if suffix in _UNFINISHED:
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return False
    if start[:4] in _TIFF:
        return suffix not in RAW_SUFFIXES
    return (
        start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in _HEIF)
        or bool(_BMP.match(start) or _PNM.match(start))
    )
