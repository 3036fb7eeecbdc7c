"""Folders whose contents are listed when they are asked for, without loops through links."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from advrad.data.folder_names import IMAGE_SUFFIXES, is_clutter
from advrad.data.signatures import holds_image
from advrad.errors import DataError


def is_image(path: Path) -> bool:
    """Whether a file is taken for an image: its ending is that of one, or it begins like one.

    Args:
        path: File.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES or holds_image(path)


class _Contents(NamedTuple):
    """Contents of a folder: files and folders that may be used, and the others with the reason why not."""

    files: list[Path]
    folders: list[Folder]
    left_out: list[tuple[Path, str]]


class Folder:
    """A folder of a data set.

    Attributes:
        path: Path of the folder.
        name: Its name; empty for the current folder.
    """

    def __init__(self, path: Path, real: tuple[str, ...] = ()) -> None:
        self.path = path
        self.name = path.name
        # Real paths of this folder and of those above it, to notice links that lead back.
        self._real = real or (os.path.realpath(path),)

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    @property
    def files(self) -> list[Path]:
        """Files by name, without hidden ones."""
        return self._contents.files

    @property
    def folders(self) -> list[Folder]:
        """Folders by name, without hidden ones and without links that lead back."""
        return self._contents.folders

    @property
    def left_out(self) -> list[tuple[Path, str]]:
        """What is neither, with the reason."""
        return self._contents.left_out

    @cached_property
    def images(self) -> list[Path]:
        """Files that are taken for images."""
        return [path for path in self.files if is_image(path)]

    @property
    def others(self) -> list[Path]:
        """Files that are not taken for images."""
        images = set(self.images)
        return [path for path in self.files if path not in images]

    def walk(self) -> Iterator[Folder]:
        """This folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def images_below(self) -> list[Path]:
        """Images in this folder and below it."""
        return [path for folder in self.walk() for path in folder.images]

    @cached_property
    def _contents(self) -> _Contents:
        try:
            with os.scandir(self.path) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be listed ({error.strerror}); check its permissions") from None
        files: list[Path] = []
        folders: list[Folder] = []
        left_out: list[tuple[Path, str]] = []
        kept = {os.path.join(self._real[-1], entry.name) for entry in listed if not entry.is_symlink()}
        for entry in listed:
            path = self.path / entry.name
            if is_clutter(entry.name):
                hidden = entry.name.startswith(".")
                left_out.append((path, "hidden" if hidden else "clutter of a file manager"))
            elif not _is_folder(entry):
                if _is_special(entry):
                    left_out.append((path, "neither a file nor a folder"))
                else:
                    files.append(path)
            elif not entry.is_symlink():
                folders.append(Folder(path, (*self._real, os.path.join(self._real[-1], entry.name))))
            else:
                real = os.path.realpath(path)
                if real in self._real:
                    left_out.append((path, "a link to a folder above it"))
                elif real in kept:
                    left_out.append((path, f"a link to {os.path.basename(real)} beside it"))
                else:
                    folders.append(Folder(path, (*self._real, real)))
        return _Contents(files, folders, left_out)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop, or into a folder that may not be entered
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a pipe, a socket or a device; a broken link counts as a file, which then cannot be read."""
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False
