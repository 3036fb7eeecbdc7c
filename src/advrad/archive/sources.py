"""What the sources of an archive name: an image that would be counted twice is refused, and the output is left out."""

from __future__ import annotations

import hashlib
import os
import posixpath
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from advrad.archive.places import Entry
from advrad.data.folder_names import is_clutter
from advrad.errors import DataError, OutputError
from advrad.utils.buckets import is_url, open_bucket
from advrad.utils.output_folders import is_own_image

#: Folders whose place is kept in memory.
_FOLDERS = 4096


class Sources:
    """What is named so far.

    Paths are compared where they lie, so that ``in``, ``./in`` and a link to it are the same folder. Two links to one
    image are two images, as they are in a folder.

    Args:
        output: File of the results; None for none.
    """

    def __init__(self, output: Path | None = None) -> None:
        self._folders: dict[str, str] = {}
        self._seen = NameSet()
        self._output: frozenset[str] = frozenset()
        self._parts = ""
        # Each instance has its own: what a relative path means depends on the working folder.
        self._real = lru_cache(_FOLDERS)(os.path.realpath)
        if output is not None:
            from advrad.archive.parts import folder_of

            self._output = frozenset({self._in_its_folder(str(output)), os.path.realpath(output)})
            self._parts = os.path.realpath(folder_of(output))

    def close(self) -> None:
        """Forget all names."""
        self._seen.close()

    def is_output(self, name: str) -> bool:
        """Whether a file or a folder is the file of the results, or belongs to those that are not finished.

        Args:
            name: Path or URL.
        """
        path = _on_this_machine(name)
        if not self._output or path is None:
            return False
        place = self._in_its_folder(path)
        if place in self._output or f"{place}{os.sep}".startswith(self._parts + os.sep):
            return True
        return os.path.islink(place) and os.path.realpath(place) in {*self._output, self._parts}

    def add(self, entry: Entry, *, image: bool) -> None:
        """Take a source.

        Args:
            entry: The source.
            image: Whether it is read as an image, and not as a folder or an archive.

        Raises:
            DataError: It was named before, by whatever path; it lies in a folder that was, or the other way round; or
                it is the output.
        """
        name = entry.name
        if self.is_output(name):
            raise DataError(f"{name}: is where the results are written; leave it out")
        place = self._place(name, image=image)
        if not self._seen.add(place):
            raise DataError(f"{name}: is named twice, so its images would be counted twice; name it once")
        if not image and not entry.folder:
            return  # a folder is read without the archives in it
        if folder := self._noted_above(place, image=image):
            raise DataError(
                f"{name}: lies in {folder}, which is named as well, so it would be counted twice; leave one of them out"
            )
        if entry.folder:
            if _held(place) in self._seen:
                raise DataError(
                    f"{name}: holds what is named before it, which would be counted twice; leave one of them out"
                )
            self._folders[place] = name

    def add_listed(self, name: str, source: str) -> None:
        """Take an image of a list.

        Args:
            name: Its path or URL.
            source: Name of the list.

        Raises:
            DataError: See :meth:`add`.
        """
        place = self._place(name, image=True)
        if not self._seen.add(place):
            raise DataError(
                f"{source}: names {name}, which is named already, so it would be counted twice; name it once"
            )
        if folder := self._noted_above(place, image=True):
            raise DataError(
                f"{source}: names {name}, which lies in {folder}, so it would be counted twice; leave one of them out"
            )

    def _noted_above(self, place: str, *, image: bool) -> str:
        """Note the folders that hold a place. The name of one that is a source; an empty text if none is."""
        if image and is_own_image(place):
            return ""
        above = list(_folders_above(place))
        for folder in above:
            if folder in self._folders:
                return self._folders[folder]
        for folder in above:
            if not self._seen.add(_held(folder)):
                break  # so are those above it
        return ""

    def _place(self, name: str, *, image: bool) -> str:
        """Where something lies, the same for each way to write it."""
        path = _on_this_machine(name)
        if path is not None:
            return self._in_its_folder(path) if image else os.path.realpath(path)
        files, path = open_bucket(name)
        return str(files.unstrip_protocol(path)).rstrip("/")

    def _in_its_folder(self, path: str) -> str:
        """A path whose folder is where it lies; a link itself is not followed."""
        folder, name = os.path.split(path)
        return os.path.join(self._real(folder or os.curdir), name)


class NameSet:
    """A set of names that may outgrow the memory: beyond a few megabytes, it lies in a temporary file."""

    def __init__(self) -> None:
        # Without a name, SQLite makes the file when it needs one, and deletes it.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Forget all names."""
        self._database.close()

    def add(self, name: str) -> bool:
        """Add a name.

        Args:
            name: The name.

        Returns:
            Whether it is new.

        Raises:
            OutputError: The disk of temporary files is full.
        """
        return self._ask("INSERT OR IGNORE INTO names VALUES (?)", name).rowcount == 1

    def __contains__(self, name: str) -> bool:
        return self._ask("SELECT 1 FROM names WHERE name = ?", name).fetchone() is not None

    def _ask(self, question: str, name: str) -> sqlite3.Cursor:
        digest = hashlib.blake2b(os.fsencode(name), digest_size=16).digest()
        try:
            return self._database.execute(question, (digest,))
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the names of the sources find no room in the folder of temporary files ({error}); free some space"
            ) from error


def _held(folder: str) -> str:
    """The mark of a folder that holds what is named; no path ends like this."""
    return f"{folder}\0"


def _folders_above(place: str) -> Iterator[str]:
    """Folders whose images are read together with what lies at a place, the nearest first."""
    url = is_url(place)
    while True:
        above, name = posixpath.split(place) if url else os.path.split(place)
        if not name or is_clutter(name) or (url and not is_url(above)):
            return
        yield above
        place = above


def _on_this_machine(name: str) -> str | None:
    """The path of a file or a folder of this machine; None for one of a bucket."""
    if not is_url(name):
        return name
    return open_bucket(name)[1] if name.lower().startswith(("file:", "local:")) else None
