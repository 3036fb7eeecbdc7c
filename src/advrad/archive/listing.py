"""From the names of sources to the pieces of an archive, one by one, however many there are."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from advrad.archive.pieces import PIECE_IMAGES, Piece, file_pieces
from advrad.archive.places import Entry, describe, expanded, listed, open_file, stamp_of, words_of
from advrad.archive.shards import SHARD_SUFFIXES, shard_pieces
from advrad.archive.sources import Sources
from advrad.archive.tables import table_pieces
from advrad.data.folder_names import IMAGE_SUFFIXES, is_clutter
from advrad.data.folders import Folder, is_image
from advrad.data.path_lists import names_in
from advrad.data.paths import describe_files
from advrad.errors import DataError
from advrad.utils.buckets import is_url
from advrad.utils.output_folders import contents_of, is_own_image

LIST_SUFFIXES = (".txt",)
TABLE_SUFFIXES = (".parquet",)
#: Files of a bucket that are described at once.
_REQUESTS = 16


def is_archive(name: str) -> bool:
    """Whether only an archive can be judged under this name: a URL, a list, a tar, a Parquet file, or a pattern.

    Args:
        name: Name of a source.

    Example:
        >>> is_archive("shard-{000..099}.tar"), is_archive("images")
        (True, False)
    """
    ending = name.lower().endswith((*LIST_SUFFIXES, *SHARD_SUFFIXES, *TABLE_SUFFIXES))
    return is_url(name) or (ending and not Path(name).is_dir())


@dataclass
class PassedOver:
    """Files of folders that are no images.

    Attributes:
        count: Number of them.
        first: The first ones.
    """

    count: int = 0
    first: list[Path] = field(default_factory=list)

    def add(self, name: str | Path) -> None:
        """Count a file.

        Args:
            name: Its path or URL.
        """
        self.count += 1
        if len(self.first) < 20:
            self.first.append(Path(name))


def pieces_of(
    sources: Iterable[str], column: str, passed_over: PassedOver, output: Path | None = None
) -> Iterator[Piece]:
    """Cut sources into pieces.

    Args:
        sources: Images, folders, lists of paths (``.txt``), tar files and Parquet files; each a path, a URL or a
            pattern of these.
        column: Column of Parquet files that holds images.
        passed_over: Counts the files of folders that are no images.
        output: File of the results, which folders and patterns leave out; None for none.

    Yields:
        Pieces, in the order of the sources. Nothing is held but one folder's names.

    Raises:
        DataError: A source does not exist, holds no images, or is named twice; or a bucket does not answer.
        ConfigError: A package or a column is missing.
    """
    single: list[tuple[str, str]] = []  # images that are named one by one, up to a piece of them
    with closing(Sources(output)) as named:
        for name in (name for source in sources for name in expanded(source, named.is_output)):
            entry = describe(name)
            image = not entry.folder and not name.lower().endswith((*LIST_SUFFIXES, *SHARD_SUFFIXES, *TABLE_SUFFIXES))
            named.add(entry, image=image)
            if image:
                single.append((name, entry.stamp))
                if len(single) < PIECE_IMAGES:
                    continue
            yield from file_pieces(single)
            single = []
            if not image:
                yield from _pieces(entry, column, passed_over, named)
    yield from file_pieces(single)


def _pieces(entry: Entry, column: str, passed_over: PassedOver, named: Sources) -> Iterator[Piece]:
    name, lower = entry.name, entry.name.lower()
    if entry.folder:
        yield from _folder_pieces(name, passed_over, named)
    elif lower.endswith(LIST_SUFFIXES):
        yield from _list_pieces(name, named)
    elif lower.endswith(SHARD_SUFFIXES):
        yield from shard_pieces(entry)
    else:
        yield from table_pieces(entry, column)


def _folder_pieces(name: str, passed_over: PassedOver, named: Sources) -> Iterator[Piece]:
    """The pieces of a folder and of those below it; none holds images of two folders."""
    before, empty = PassedOver(), True
    before.count, before.first = passed_over.count, list(passed_over.first)
    if not is_url(name) and contents_of(Path(name)) == "heat maps":
        raise DataError(f"{name}: holds heat maps that advrad has drawn; name the folder of the images")
    url = is_url(name)
    below = _bucket_folder(name, passed_over, named) if url else _folder(Folder(Path(name)), passed_over, named)
    for piece in below:
        empty = False
        yield piece
    if empty:
        others = passed_over.count - before.count
        shown = passed_over.first[len(before.first) :]
        what = f"no images, but {others} other file{'' if others == 1 else 's'}" if others else "no images"
        which = f": {describe_files(shown)}" if shown else ""
        raise DataError(f"{name}: holds {what}{which}; name a folder of images, or its archives by a pattern")


def _folder(folder: Folder, passed_over: PassedOver, named: Sources) -> Iterator[Piece]:
    def images() -> Iterator[tuple[str, str]]:
        for path in folder.files:
            if is_own_image(path.name) or named.is_output(str(path)):
                continue
            if is_image(path):
                yield str(path), stamp_of(str(path))
            else:
                passed_over.add(path)

    try:
        folders = folder.folders
    except DataError as error:
        yield Piece("lost", (str(folder.path),), reason=str(error).removeprefix(f"{folder.path}: "))
        return
    yield from file_pieces(images())
    folders.reverse()
    while folders:  # each is forgotten when it is done: the memory does not grow with the archive
        below = folders.pop()
        if contents_of(below.path) is None and not named.is_output(str(below.path)):
            yield from _folder(below, passed_over, named)


def _bucket_folder(name: str, passed_over: PassedOver, named: Sources) -> Iterator[Piece]:
    found = listed(name)

    def images() -> Iterator[tuple[str, str]]:
        for entry in found:
            base = posixpath.basename(entry.name.rstrip("/"))
            if entry.folder or is_clutter(base) or is_own_image(base) or named.is_output(entry.name):
                continue
            if posixpath.splitext(base)[1].lower() in IMAGE_SUFFIXES:
                yield entry.name, entry.stamp
            else:
                passed_over.add(entry.name)

    yield from file_pieces(images())
    for entry in found:
        base = posixpath.basename(entry.name.rstrip("/"))
        if entry.folder and not is_clutter(base) and not named.is_output(entry.name):
            yield from _bucket_folder(entry.name, passed_over, named)


def _list_pieces(name: str, named: Sources) -> Iterator[Piece]:
    """The pieces of a list of paths, which begin in the working folder."""
    empty = True
    try:
        with open_file(name) as file, ThreadPoolExecutor(_REQUESTS) as pool:
            names = names_in(cast(BinaryIO, file))
            while some := list(islice(names, PIECE_IMAGES)):
                empty = False
                for one in some:
                    named.add_listed(one, name)
                remote = any(is_url(one) for one in some)
                stamps = list(pool.map(stamp_of, some)) if remote else [stamp_of(one) for one in some]
                yield from file_pieces(zip(some, stamps, strict=True))
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({words_of(error)}); name a list of paths") from None
    if empty:
        raise DataError(f"{name}: names no image; write one path on each line")
