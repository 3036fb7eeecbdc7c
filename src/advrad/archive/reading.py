"""The images of a piece, one after the other."""

from __future__ import annotations

from collections.abc import Generator

from advrad.archive.pieces import Content, Piece, too_large
from advrad.archive.places import located, read_file, size_of, words_of
from advrad.archive.shards import shard_contents
from advrad.archive.tables import table_contents
from advrad.data.loading import map_ahead

#: Files of a bucket that are fetched at once: most of the time is spent waiting.
_REQUESTS = 8


def contents_of_piece(piece: Piece, base: str, most_bytes: int | None = None) -> Generator[Content, None, None]:
    """Read a piece.

    Args:
        piece: The piece.
        base: Folder in which relative paths begin.
        most_bytes: Size of the largest image file that is read from a disk or a tar; None for any.

    Yields:
        Its images, and what cannot be read of it.

    Raises:
        DataError: A bucket does not answer.
        ConfigError: The package for a bucket is missing.

    Example:
        >>> with open("a.png", "wb") as file:
        ...     _ = file.write(b"...")
        >>> [content.data for content in contents_of_piece(Piece("files", ("a.png",), ("3",)), ".")]
        [b'...']
    """
    if piece.kind == "lost":
        yield Content(piece.names[0], reason=piece.reason)
    elif piece.kind == "files":
        yield from _files(piece, base, most_bytes)
    elif piece.kind == "shard":
        yield from shard_contents(piece, located(piece.names[0], base), most_bytes)
    else:
        yield from table_contents(piece, located(piece.names[0], base))


def _files(piece: Piece, base: str, most_bytes: int | None) -> Generator[Content, None, None]:
    def read(name: str) -> Content:
        place = located(name, base)
        try:
            if reason := too_large(size_of(place), most_bytes):
                return Content(name, reason=reason)
            return Content(name, read_file(place))
        except OSError as error:
            reason = "is a folder, not an image" if isinstance(error, IsADirectoryError) else words_of(error)
            return Content(name, reason=f"cannot be read ({reason})")

    yield from map_ahead(read, piece.names, _REQUESTS)
