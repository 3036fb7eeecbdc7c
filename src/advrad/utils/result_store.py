"""Rows of a result, one file per row, so that a run can be interrupted, resumed and split over processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from advrad.errors import ConfigError, OutputError
from advrad.utils.config import Config
from advrad.utils.files import make_folder, write_json
from advrad.utils.output_folders import claim_folder
from advrad.utils.progress import SILENT, ProgressReporter

#: A row that is stored as JSON.
RowT = TypeVar("RowT", bound=Config)


@dataclass(frozen=True, slots=True)
class ResultStore:
    """Rows of a run over images: one JSON file per image.

    Attributes:
        folder: Folder of the row files.
        count: Number of rows of the complete run.
    """

    folder: Path
    count: int

    @classmethod
    def open(cls, folder: Path, plan: Config, names: Sequence[str], digest: str, identity: str) -> ResultStore:
        """Create the store of a run, or open it again to resume the run.

        Args:
            folder: Folder of the run; created if missing.
            plan: Everything that determines the result apart from the detector and the images.
            names: Names of the images, one row each.
            digest: Digest of the images' contents.
            identity: Digest of the detector.

        Raises:
            OutputError: The folder holds rows of another plan, of other images or of another detector, or files that
                advrad did not write.
        """
        claim_folder(folder, "results")
        store = cls(make_folder(folder / "rows"), len(names))
        wanted = plan.model_dump(mode="json") | {"names": list(names), "pictures": digest, "detector": identity}
        path = folder / "plan.json"
        if not path.is_file():
            write_json(path, wanted)
            return store
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: is damaged ({error}); choose another output folder") from None
        if found != wanted:
            held = found if isinstance(found, dict) else {}
            other = ", ".join(key for key in sorted(wanted) if held.get(key) != wanted[key])
            raise OutputError(f"{folder}: holds a run with other {other}; choose another output folder")
        return store

    def path(self, index: int) -> Path:
        """Path of the file of a row.

        Args:
            index: Number of the row, counted from 0.
        """
        return self.folder / f"{index:05}.json"

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Rows that are not finished yet.

        Args:
            indices: Numbers of the rows to look for.
        """
        return [index for index in indices if not self.path(index).is_file()]

    def write(self, index: int, values: dict[str, Any]) -> None:
        """Write a finished row.

        Args:
            index: Number of the row.
            values: Plain JSON values by name.

        Raises:
            OutputError: The file cannot be written.
        """
        write_json(self.path(index), values)

    def read_all(self) -> list[dict[str, Any]]:
        """Read all rows, in order.

        Raises:
            OutputError: A row is missing or damaged.
        """
        rows = []
        for index in range(self.count):
            path = self.path(index)
            try:
                rows.append(dict(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                raise _damaged(path, error) from None
        return rows

    def complete(
        self,
        kind: type[RowT],
        compute: Callable[[int], RowT],
        *,
        process: tuple[int, int] = (0, 1),
        progress: ProgressReporter = SILENT,
        wait: Callable[[], None] | None = None,
    ) -> tuple[RowT, ...]:
        """Compute and write the missing rows of this process, one by one, and read all rows.

        Args:
            kind: Class of the rows.
            compute: Function that computes the row of a number.
            process: Index of this process, and number of processes; each computes its share of the rows.
            progress: Receives (rows done, rows of this process).
            wait: Function that waits for all processes; called before the rows are read.

        Returns:
            All rows, in order, whichever process computed them.

        Raises:
            OutputError: A row is damaged, or cannot be written.
        """
        share = range(process[0], self.count, process[1])
        missing = self.missing(share)
        done = len(share) - len(missing)
        progress.update(done, len(share))
        for index in missing:
            self.write(index, compute(index).model_dump(mode="json"))
            done += 1
            progress.update(done, len(share))
        if wait:
            wait()
        return tuple(self._parsed(kind, index, values) for index, values in enumerate(self.read_all()))

    def _parsed(self, kind: type[RowT], index: int, values: dict[str, Any]) -> RowT:
        try:
            return kind.parse(values, "value")
        except ConfigError as error:
            raise _damaged(self.path(index), error) from None


def _damaged(path: Path, error: Exception) -> OutputError:
    return OutputError(f"{path}: a row is damaged ({error}); delete it and run the same command again")
