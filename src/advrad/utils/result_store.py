"""Rows of a result, one file each, so that a run can be killed anywhere, resumed, and split over processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advrad.errors import OutputError
from advrad.utils.config import Config
from advrad.utils.files import make_folder, write_json


@dataclass(frozen=True, slots=True)
class ResultStore:
    """The rows of a run over images.

    Attributes:
        folder: of the rows.
        count: how many there will be.
    """

    folder: Path
    count: int

    @classmethod
    def claim(cls, folder: Path, plan: Config, names: Sequence[str], digest: str, identity: str) -> ResultStore:
        """Write down what a folder's rows belong to, or refuse a folder whose rows belong to something else.

        Args:
            folder: of the run; made if it is not there.
            plan: all that decides the result, but the detector and the images.
            names: of the images, one row each.
            digest: of the images' contents.
            identity: of the detector.

        Raises:
            OutputError: the folder holds rows of another plan, of other images or of another detector.
        """
        rows = cls(make_folder(folder / "rows"), len(names))
        mine = plan.model_dump(mode="json") | {"names": list(names), "pictures": digest, "detector": identity}
        path = folder / "plan.json"
        if not path.is_file():
            write_json(path, mine)
            return rows
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: is damaged ({error}); name another folder with -o") from None
        if held != mine:
            other = ", ".join(sorted(key for key in mine if not isinstance(held, dict) or held.get(key) != mine[key]))
            raise OutputError(f"{folder}: holds a run with other {other}; name another folder with -o")
        return rows

    def path(self, index: int) -> Path:
        """Of one row."""
        return self.folder / f"{index:05}.json"

    def missing(self, share: Iterable[int]) -> list[int]:
        """Those of some rows that are not finished."""
        return [index for index in share if not self.path(index).is_file()]

    def write(self, index: int, values: dict[str, Any]) -> None:
        """Finish a row.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(self.path(index), values)

    def read_all(self) -> list[dict[str, Any]]:
        """All rows, in order.

        Raises:
            OutputError: one is missing or damaged.
        """
        found = []
        for index in range(self.count):
            path = self.path(index)
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                found.append(dict(values))
            except (OSError, ValueError, TypeError) as error:
                raise OutputError(
                    f"{path}: a row is damaged ({error}); delete it and run the same command again"
                ) from None
        return found
