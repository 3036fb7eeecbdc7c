"""Pieces of an archive: what one task judges, and what one part file holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

#: Most images of a piece, where the archive can be cut anywhere.
PIECE_IMAGES = 256

Kind = Literal["files", "shard", "table", "lost"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an archive.

    Attributes:
        kind: Image files, a part of a tar, a row group of a Parquet file; or ``lost`` for what cannot be read at all.
        names: Paths or URLs: the images, or the one archive.
        stamps: What tells another content of each of ``names``, see :class:`advrad.archive.places.Entry`; empty once
            the fingerprint is known.
        first: Byte of a tar at which the part begins, or number of the row group, >= 0.
        last: Byte of a tar at which the part ends; None for its end.
        column: Column of a Parquet file that holds images.
        images: Number of images, as far as it is known.
        reason: Why it cannot be read, where it is lost.
        fingerprint: Digest of all of these; the same as long as the piece holds the same images.
    """

    kind: Kind
    names: tuple[str, ...]
    stamps: tuple[str, ...] = ()
    first: int = 0
    last: int | None = None
    column: str = ""
    images: int = 0
    reason: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
            object.__setattr__(self, "fingerprint", digest)
            object.__setattr__(self, "stamps", ())

    def to_json(self) -> str:
        """The piece as a line of text."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in ("", 0, None, ())})

    @classmethod
    def from_json(cls, line: str) -> Piece:
        """The piece of a line that :meth:`to_json` wrote.

        Args:
            line: The line.
        """
        values = json.loads(line)
        return cls(**{**values, "names": tuple(values["names"])})


@dataclass(frozen=True, slots=True)
class Content:
    """An image of a piece, or what cannot be read of it.

    Attributes:
        name: Path or URL of the image; that of an image inside an archive begins with that of the archive.
        data: Content of the image file; None if it cannot be read.
        reason: Why it cannot be read.
    """

    name: str
    data: bytes | None = None
    reason: str = ""


def too_large(size: int, most: int | None) -> str:
    """Why an image file is not read at all, in words; empty if it is.

    Args:
        size: Number of its bytes.
        most: That of the largest file that is read; None for any.

    Example:
        >>> too_large(5_000_000_000, 3_200_000_000)
        'holds 5.0 GB, more than an image of the accepted size takes (max_pixels); check the file'
    """
    if most is None or size <= most:
        return ""
    return f"holds {size / 1e9:.1f} GB, more than an image of the accepted size takes (max_pixels); check the file"


def file_pieces(files: Iterable[tuple[str, str]]) -> Iterator[Piece]:
    """Cut a row of image files into pieces.

    Args:
        files: Name and stamp of each.

    Example:
        >>> [piece.images for piece in file_pieces([("a.png", "1")] * 257)]
        [256, 1]
    """
    names: list[str] = []
    stamps: list[str] = []
    for name, stamp in files:
        names.append(name)
        stamps.append(stamp)
        if len(names) == PIECE_IMAGES:
            yield Piece("files", tuple(names), tuple(stamps), images=len(names))
            names, stamps = [], []
    if names:
        yield Piece("files", tuple(names), tuple(stamps), images=len(names))
