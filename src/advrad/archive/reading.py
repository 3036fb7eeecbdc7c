"""The images of a piece, one after the other."""

from __future__ import annotations

from collections.abc import Generator

from advrad.archive.pieces import Content, Piece
from advrad.archive.places import answering, located, read_file, unreadable, words_of
from advrad.archive.shards import shard_contents
from advrad.archive.tables import table_contents
from advrad.data.loading import map_ahead

#: Files of a bucket that are fetched at once: most of the time is spent waiting.
_REQUESTS = 8


def contents_of_piece(piece: Piece, base: str) -> Generator[Content, None, None]:
    """Read a piece.

    Args:
        piece: The piece.
        base: Folder in which relative paths begin.

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
        yield from _files(piece, base)
    else:
        place = located(piece.names[0], base)
        with answering(place):
            yield from shard_contents(piece, place) if piece.kind == "shard" else table_contents(piece, place)


def _files(piece: Piece, base: str) -> Generator[Content, None, None]:
    def read(name: str) -> Content:
        place = located(name, base)
        try:
            return Content(name, read_file(place))
        except unreadable(place) as error:
            reason = "is a folder, not an image" if isinstance(error, IsADirectoryError) else words_of(error)
            return Content(name, reason=f"cannot be read ({reason})")

    yield from map_ahead(read, piece.names, _REQUESTS)
