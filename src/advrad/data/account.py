"""The account of a data set: what every file below its folder is used as, or why it is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advrad.data.folder_names import UNREAD_SUFFIXES
from advrad.data.folders import Folder, is_image
from advrad.data.records import Record
from advrad.utils.output_folders import is_own_image

Use = Literal["train", "test", "mask", "table"]
"""What a file is used as."""

_EXAMPLES = 3
_NOT_IMAGES = "not an image"


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """Files with one use, or left out for one reason.

    Attributes:
        use: Use of the files: ``train``, ``test``, ``mask`` or ``table``; None if they are left out.
        what: Kind of the images, ``good`` or the name of the defect; for files that are left out, the reason.
        count: Number of files.
        examples: Some of them, relative to the folder of the data set.

    Example:
        >>> AccountEntry("test", "scratch", 2, ("scratch/1.png", "scratch/2.png")).describe()
        '2 test scratch, such as scratch/1.png'
    """

    use: Use | None
    what: str
    count: int
    examples: tuple[str, ...]

    def describe(self) -> str:
        """The files in a few words."""
        words = self.what if self.use is None else f"{self.use} {self.what}".strip()
        return f"{self.count} {words}, such as {self.examples[0]}"

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return {"use": self.use, "what": self.what, "count": self.count, "examples": list(self.examples)}


@dataclass(frozen=True, slots=True)
class Account:
    """What becomes of every file below the folder of a data set.

    Attributes:
        entries: Files by use, and those that are left out by reason.

    Example:
        >>> Account((AccountEntry("train", "good", 2, ("good/1.png",)),)).files
        2
    """

    entries: tuple[AccountEntry, ...] = ()

    @property
    def files(self) -> int:
        """Number of all files."""
        return sum(entry.count for entry in self.entries)

    @property
    def left_out(self) -> tuple[AccountEntry, ...]:
        """The files that are not used."""
        return tuple(entry for entry in self.entries if entry.use is None)

    def to_list(self) -> list[dict[str, Any]]:
        """The entries as JSON values."""
        return [entry.to_dict() for entry in self.entries]


class Ledger:
    """Collects what files and folders are not used and why, what is doubtful, and what the user should know.

    Attributes:
        notes: Messages for the user.
        warnings: What is doubtful.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._reasons: dict[Path, str] = {}
        self._tables: list[Path] = []
        self._ignored: Counter[str] = Counter()

    def leave_out(self, path: Path, reason: str) -> None:
        """Note why a file, or a folder with all below it, is not used. The first reason stays."""
        self._reasons.setdefault(path, reason)

    def ignore(self, files: Iterable[Path]) -> None:
        """Count files that lie among images and are none; a warning names those that may be some after all."""
        self._ignored.update(path.suffix.lower() or path.name for path in files)

    def add_table(self, path: Path) -> None:
        """Note that a file is read as a table."""
        self._tables.append(path)

    def finish(self, records: Iterable[Record]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Notes and warnings, with those about ignored files and about images without a mask.

        Args:
            records: Images in use.
        """
        notes, warnings = list(self.notes), list(self.warnings)
        if self._ignored:
            notes.append(f"files that are not images were ignored: {_counted(self._ignored)}")
        if unread := Counter({end: n for end, n in self._ignored.items() if end in UNREAD_SUFFIXES}):
            warnings.append(f"files that may hold images are not read: {_counted(unread)}; convert them to PNG")
        bare = Counter(record.defect for record in records if record.label == 1 and record.mask is None)
        if bare:
            each = ", ".join(f"{name} {count}" for name, count in sorted(bare.items()))
            notes.append(f"anomalous images without a mask: {bare.total()} ({each})")
        return tuple(notes), tuple(warnings)

    def account(self, folders: Iterable[Folder], root: Path, records: Iterable[Record]) -> Account:
        """Account for every file.

        Args:
            folders: Folders of the data set; all below them is accounted for.
            root: Folder to which examples are relative.
            records: Images in use.
        """
        found: dict[tuple[Use | None, str], list[Path]] = {}
        used: set[Path] = set()
        for path in self._tables:
            found.setdefault(("table", ""), []).append(path)
        masks: list[tuple[Path, str]] = []
        for record in records:
            found.setdefault((record.split, record.defect), []).append(record.path)
            used.add(record.path)
            if record.mask is not None:
                masks.append((record.mask, record.defect))
        for mask, defect in masks:
            files = Folder(mask).images if mask.is_dir() else [mask]
            found.setdefault(("mask", f"of {defect}"), []).extend(files)
            used.update(files)
        used.update(self._tables)
        for folder in folders:
            self._rest(folder, None, used, found)
        order: dict[Use | None, int] = {"train": 0, "test": 1, "mask": 2, "table": 3, None: 4}
        return Account(
            tuple(
                AccountEntry(use, what, len(paths), tuple(_relative(path, root) for path in sorted(paths)[:_EXAMPLES]))
                for (use, what), paths in sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1]))
            )
        )

    def _rest(
        self, folder: Folder, reason: str | None, used: set[Path], found: dict[tuple[Use | None, str], list[Path]]
    ) -> None:
        """Account for the files below a folder that are not used; ``reason`` is that of the folder."""
        reason = self._reasons.get(folder.path, reason)
        for path in folder.files:
            if path in used:
                continue
            own = self._reasons.get(path)
            if own is None and is_own_image(path.name):
                own = "heat map or reconstruction that advrad wrote"
            if own is None and reason is None and not is_image(path):
                own = _NOT_IMAGES
            found.setdefault((None, own or reason or "in no folder of images"), []).append(path)
        for path, why in folder.left_out:
            if files := _files_below(path):
                found.setdefault((None, why), []).extend(files)
        for below in folder.folders:
            self._rest(below, reason, used, found)


def _files_below(path: Path) -> list[Path]:
    """A file itself, or the files below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [Path(base, name) for base, _, names in os.walk(path) for name in names]


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
