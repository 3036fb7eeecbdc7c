"""Read the layout of VisA: a table that names the images of all categories."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from advrad.data.account import Ledger
from advrad.data.records import Record
from advrad.errors import DataError

TABLE = Path("split_csv", "1cls.csv")
"""The table, relative to the folder of the data set."""

_COLUMNS = ("object", "split", "label", "image", "mask")


class VisaContents(NamedTuple):
    """Images of one category of VisA.

    Attributes:
        root: Folder of the data set.
        category: Name of the category.
        records: Images, in the order of the table.
        ledger: Receives the table.
    """

    root: Path
    category: str
    records: list[Record]
    ledger: Ledger


def read_visa(root: Path, category: str | None) -> VisaContents | None:
    """List the images of one category.

    Args:
        root: Folder of the data set, or of a category.
        category: Name of the category; None if the folder says it.

    Returns:
        The images; None if there is no table.

    Raises:
        DataError: The table is damaged, or does not have the category.
    """
    if (root / TABLE).is_file():
        base = root
    elif (root.resolve().parent / TABLE).is_file() and (root / "Data" / "Images").is_dir():
        base, category = root.resolve().parent, category or root.resolve().name
    else:
        return None
    table = base / TABLE
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}); restore it from the data set") from None
    if not rows or any(row.get(column) is None for row in rows for column in _COLUMNS):
        raise DataError(f"{table}: each row needs the columns {', '.join(_COLUMNS)}")
    names = sorted({row["object"] for row in rows})
    if category is None and len(names) == 1:
        category = names[0]
    if category is None:
        raise DataError(
            f"{root}: holds several categories ({', '.join(names)}); name one, as {base / names[0]} or as the category"
        )
    if category not in names:
        raise DataError(f"{table}: has no category {category!r}; it holds: {', '.join(names)}")
    ledger = Ledger()
    ledger.add_table(table)
    ledger.leave_out(base / category, "not in the table")
    lines = [_record(base, row, number) for number, row in enumerate(rows, start=2) if row["object"] == category]
    return VisaContents(base, category, lines, ledger)


def _record(base: Path, row: dict[str, str], number: int) -> Record:
    """The image of a row of the table."""
    split, label = row["split"], row["label"]
    if split not in ("train", "test") or label not in ("normal", "anomaly") or (split, label) == ("train", "anomaly"):
        raise DataError(
            f"{base / TABLE}: line {number}: split {split!r} with label {label!r} is not in the 1-class split"
        )
    path = base / row["image"]
    if label == "normal":
        return Record(path, "train" if split == "train" else "test", 0, "good")
    mask = base / row["mask"] if row["mask"] else None
    return Record(path, "test", 1, "anomaly", mask if mask and mask.is_file() else None)
