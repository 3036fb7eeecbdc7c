"""Shards: tar files of images, as WebDataset writes them.

A tar is read from front to back. Where it lies on this machine and is not compressed, it is cut into parts of a few
hundred images by a look at its headers; otherwise it is one piece.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, cast

from advrad.archive.pieces import PIECE_IMAGES, Content, Piece, too_large
from advrad.archive.places import Entry, open_file, words_of
from advrad.data.folder_names import IMAGE_SUFFIXES, is_clutter
from advrad.utils.buckets import is_url

#: Endings of tar files.
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: What a damaged or missing tar raises while it is read. A bucket that does not answer raises something else.
_DAMAGE: tuple[type[Exception], ...] = (OSError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError)
_BLOCK = 512


def shard_pieces(entry: Entry) -> Iterator[Piece]:
    """Cut a tar into pieces.

    Args:
        entry: The tar.

    Yields:
        Pieces, at least one. Of a damaged tar, the last one begins where the damage cannot be told yet.
    """
    name, stamp = entry.name, entry.stamp
    first, images = 0, 0
    if not is_url(name) and name.endswith(".tar"):
        try:
            with open_file(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    _forget(tar)
                    if not _is_image(member):
                        continue
                    if images == PIECE_IMAGES:
                        yield Piece("shard", (name,), (stamp,), first=first, last=member.offset, images=images)
                        first, images = member.offset, 0
                    images += 1
        except _DAMAGE:
            pass  # it is told where the piece is read, as a row of the results
    yield Piece("shard", (name,), (stamp,), first=first, images=images)


def shard_contents(piece: Piece, place: str, most_bytes: int | None = None) -> Iterator[Content]:
    """The images of a part of a tar.

    Args:
        piece: The part.
        place: Where the tar lies.
        most_bytes: Size of the largest image file that is read; None for any.

    Yields:
        Images, and what cannot be read of them; a damage is the last.

    Raises:
        DataError: A bucket does not answer.
    """
    (name,) = piece.names
    found = 0
    try:
        with open_file(place) as file:
            file.seek(piece.first)
            with tarfile.open(fileobj=file, mode="r:" if name.endswith(".tar") else "r:*") as tar:
                while (member := tar.next()) is not None:
                    if piece.last is not None and member.offset >= piece.last:
                        return
                    _forget(tar)
                    if _is_image(member):
                        found += 1
                        yield _content(tar, member, name, most_bytes)
                if piece.last is None and (reason := _end_of(tar)):
                    yield Content(name, reason=reason)
    except _DAMAGE as error:
        yield Content(name, reason=f"cannot be read any further ({words_of(error)}); copy it again")
        return
    if not found and not piece.first:
        yield Content(name, reason="holds no images; name a tar of image files")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, most_bytes: int | None) -> Content:
    shown = f"{name}/{member.name.removeprefix('./')}"
    if member.islnk() or member.issym():
        # What it leads to may lie in front of this piece, or outside.
        link = f"is a link to {member.linkname}, which is not followed"
        return Content(shown, reason=f"{link}; write the tar with the files in place of links")
    if reason := too_large(member.size, most_bytes):
        return Content(shown, reason=reason)
    file: IO[bytes] | None = tar.extractfile(member)
    return Content(shown, reason="is not a file") if file is None else Content(shown, file.read())


def _forget(tar: tarfile.TarFile) -> None:
    """Forget the members that were read: the list of them would grow with the tar."""
    tar.members = []  # type: ignore[attr-defined]


def _is_image(member: tarfile.TarInfo) -> bool:
    """Whether a member is named like an image; a link or a device is one too, and has a row that says what it is."""
    parts = member.name.rstrip("/").split("/")
    ending = f".{parts[-1].rpartition('.')[2].lower()}"
    return (
        not member.isdir() and ending in IMAGE_SUFFIXES and not any(is_clutter(part) for part in parts if part != ".")
    )


def _end_of(tar: tarfile.TarFile) -> str:
    """Why the end of a tar is doubtful; empty if it has its end mark, a block of zeros."""
    file = cast(IO[bytes], tar.fileobj)
    file.seek(tar.offset)
    block = file.read(_BLOCK)
    if block == bytes(_BLOCK):
        return ""
    if len(block) < _BLOCK:
        return "ends without the end mark of a tar, so it is probably cut off; copy it again"
    return f"is damaged at byte {tar.offset}; the images behind it cannot be read; copy it again"
