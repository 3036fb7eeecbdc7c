"""A CSV file that grows by one row for each inspection.

A row counts as delivered when it is on the disk. If the program dies between writing rows and noting that it did, it
meets these rows again at the next start: it finds their identities at the end of the file, and does not append them a
second time. A last line without an end is a row whose writing was interrupted: it is removed and written again. So
each inspection has one row, as long as nobody else changes the end of the file; a program that reads it should take
the column ``id`` as the key in any case.

The file may be moved away at any time, such as each day; the next row begins a new one.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from advrad.errors import ConfigError
from advrad.serving.csv_text import COLUMNS, csv_header, csv_line
from advrad.serving.records import Inspection
from advrad.serving.sinks.base import SinkConfig, Unavailable
from advrad.utils.files import explain

_BATCH = 100
#: Bytes at the end of the file in which rows are looked for: more than two batches of the longest rows.
_TAIL_BYTES = 4 * 1024 * 1024


class CsvConfig(SinkConfig):
    """Description of a CSV file."""

    kind: Literal["csv"] = "csv"
    file: Path = Field(description="The file; its folder must exist. A relative path starts at the folder of this one.")


class CsvFile:
    """Appends inspections to a file.

    Args:
        config: Description.
        folder: Folder at which a relative path starts.
        where: Place of the description, for errors.

    Raises:
        ConfigError: The folder is missing, or the file is something else than such a table.
    """

    kind = "csv"
    batch = _BATCH
    keeps_batches = False

    def __init__(self, config: CsvConfig, folder: Path, where: str) -> None:
        self.name, self.wants = config.name, config.wants
        self.path = folder / config.file
        #: Identities at the end of the file; None as long as it was not looked at, or after a failure.
        self._written: set[str] | None = None
        if not self.path.parent.is_dir():
            raise ConfigError(f"{where}: file: {self.path.parent}: there is no such folder; create it first")
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"{where}: file: {self.path}: is not a regular file; name another one")
        if not os.access(self.path if self.path.exists() else self.path.parent, os.W_OK):
            raise ConfigError(f"{where}: file: {self.path}: cannot be written (permission denied); name another one")
        try:
            with self._locked(create=False) as file:
                if file is not None:
                    _check_columns(file, self.path)
        except Unavailable as error:
            raise ConfigError(f"{where}: file: {error}") from None

    def open(self) -> None:
        """Do nothing: the file is opened for each batch, because it may be moved away."""

    def send(self, inspections: Sequence[Inspection]) -> None:
        """Append the inspections that are not at the end of the file already.

        Raises:
            Unavailable: The file cannot be written now.
        """
        with self._locked(create=True) as file:
            if file is None:  # it was moved away between two calls of the system; the next attempt makes it
                raise Unavailable(f"{self.path}: was moved away while it was opened")
            size = _whole_size(file)
            if size:
                _check_columns(file, self.path)
            if self._written is None:
                self._written = _last_ids(file, size)
            known, self._written = self._written, None
            rows = [csv_line(inspection) for inspection in inspections if inspection.id not in known]
            os.ftruncate(file, size)
            _append(file, size, ("" if size else csv_header()) + "".join(rows))
            if not size:
                _sync_folder(self.path.parent)
            self._written = known

    def close(self) -> None:
        """Do nothing: the file is closed after each batch."""

    @contextmanager
    def _locked(self, *, create: bool) -> Iterator[int | None]:
        """The open file, locked against other processes that append to it; None if there is none."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError as error:
            if create:
                raise Unavailable(f"{self.path}: cannot be written: {explain(error)}") from None
            yield None
            return
        except OSError as error:
            raise Unavailable(f"{self.path}: cannot be written: {explain(error)}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        except OSError as error:
            raise Unavailable(f"{self.path}: cannot be written: {explain(error)}") from None
        finally:
            os.close(file)


def _check_columns(file: int, path: Path) -> None:
    """Refuse a file that is another table."""
    start = os.pread(file, 4096, 0).decode("utf-8", "replace")
    if csv_header().startswith(start):  # empty, or a header whose writing was interrupted
        return
    if tuple(next(csv.reader(io.StringIO(start)), ())) != COLUMNS:
        raise Unavailable(f"{path}: holds other columns than this table; name a new file, or move this one away")


def _whole_size(file: int) -> int:
    """Size of the file up to its last whole line."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 65536)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _last_ids(file: int, size: int) -> set[str]:
    """Identities in the last rows."""
    start = max(0, size - _TAIL_BYTES)
    lines = os.pread(file, size - start, start).decode("utf-8", "replace").split("\n")
    whole = lines[1:] if start else lines
    return {line.partition(",")[0] for line in whole if line}


def _append(file: int, size: int, text: str) -> None:
    """Write text behind the given size, onto the disk; on an error the file keeps its size."""
    content = memoryview(text.encode("utf-8"))
    try:
        at = size
        while content:
            count = os.pwrite(file, content, at)
            content, at = content[count:], at + count
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _sync_folder(folder: Path) -> None:
    """Put the name of a new file onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
