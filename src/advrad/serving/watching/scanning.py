"""Look through a folder for image files, again and again.

The folder is listed, not subscribed to: that works on network shares, too. Links are followed, each folder once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from advrad.data.folder_names import is_clutter
from advrad.data.folders import is_image
from advrad.utils.output_folders import MARKER, is_own_image


class Stamp(NamedTuple):
    """What changes when a file is written; a changed stamp means that its content is to be looked at again.

    Attributes:
        size: Size in bytes.
        mtime_ns: Time of the last writing, in nanoseconds, by the clock of the file system.
        ctime_ns: Time of the last change of any kind.
        inode: Number of the file on its disk.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """The stamp of a file.

        Args:
            found: What the system says about it.
        """
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class Scanner:
    """Finds the image files in and below a folder.

    Left out are hidden files, what file managers leave behind, files that are no images, and folders that advrad has
    written.

    Args:
        folder: The folder.
        patterns: Names of files, or paths relative to the folder, with ``*`` and ``?``; None for all images.
        leave_out: Folders that are not looked into.

    Attributes:
        problems: Folders below that could not be listed in the last look, with the reason.
    """

    def __init__(self, folder: Path, patterns: Collection[str] | None, leave_out: Collection[Path]) -> None:
        self.folder = folder
        self.problems: dict[str, str] = {}
        self._patterns = None if patterns is None else [pattern.casefold() for pattern in patterns]
        self._leave_out = {os.path.realpath(path) for path in leave_out}
        #: Files that were looked into and are no images.
        self._others: dict[str, Stamp] = {}

    @property
    def others(self) -> int:
        """Number of files that were no images in the last look; with patterns, they are not counted."""
        return len(self._others)

    def look(self) -> dict[str, Stamp]:
        """List the files that are there now.

        Returns:
            Stamps by path relative to the folder, with slashes. Bytes that are no valid text are kept as the system
            gives them to Python.

        Raises:
            OSError: The folder itself cannot be listed.
        """
        self.problems = {}
        found: dict[str, Stamp] = {}
        others: dict[str, Stamp] = {}
        for name, stamp in self._files():
            if self._wanted(name, stamp, others):
                found[name] = stamp
        self._others = others
        return found

    def _wanted(self, name: str, stamp: Stamp, others: dict[str, Stamp]) -> bool:
        last = name.rpartition("/")[2]
        if is_own_image(last):
            return False
        if self._patterns is not None:
            folded = name.casefold(), last.casefold()
            return any(fnmatch(one, pattern) for one in folded for pattern in self._patterns)
        if self._others.get(name) == stamp or not is_image(self.folder / name):
            others[name] = stamp
            return False
        return True

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        """All files, those in real folders first, so that a link to a folder changes no name of a file."""
        seen: set[tuple[int, int]] = set()
        real: list[str] = [""]
        links: list[str] = []
        while real or links:
            inside = real.pop() if real else links.pop(0)
            try:
                entries = self._listed(inside, seen)
            except OSError as error:
                if not inside:
                    raise
                self.problems[inside] = error.strerror or type(error).__name__
                continue
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                try:
                    is_folder, status = entry.is_dir(), entry.stat()
                except OSError:  # it was removed just now, or is a link that leads nowhere
                    continue
                if is_folder:
                    (links if entry.is_symlink() else real).append(name)
                elif stat.S_ISREG(status.st_mode):
                    yield name, Stamp.of(status)

    def _listed(self, inside: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """What a folder holds, by name; nothing where it was listed already, or is to be left out."""
        path = self.folder / inside
        status = path.stat()
        place = (status.st_dev, status.st_ino)
        if place in seen or (inside and os.path.realpath(path) in self._leave_out):
            return []
        with os.scandir(path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        seen.add(place)
        if inside and any(entry.name == MARKER for entry in listed):
            return []
        return [entry for entry in listed if not is_clutter(entry.name)]
