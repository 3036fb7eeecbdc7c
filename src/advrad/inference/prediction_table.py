"""Predictions as a table: a CSV file with one row for each image."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advrad.utils.files import atomic_path
from advrad.utils.output_folders import check_output_file

_FIRST = ("path", "score", "threshold", "verdict")
_LAST = ("warning", "error")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write predictions as a CSV file in UTF-8, completely or not at all.

    The first columns are ``path``, ``score``, ``threshold`` and ``verdict``. Others follow where a row has them: files
    of heat maps, fields of certificates, ``reason``, ``warning``, and ``error`` for an image that was left out. What a
    half of a guarded detector says has columns of its own, such as ``memory_score`` and ``memory_p_value``. What a row
    does not have is empty.

    Args:
        path: File to write; a text that is there is replaced.
        rows: Values by name, as :meth:`advrad.inference.PredictionRecord.to_dict` gives them.

    Raises:
        OutputError: The file is not a text, or cannot be written.

    Example:
        >>> row = {"path": "a.png", "score": 0.7, "threshold": 0.5, "verdict": "defective"}
        >>> write_table(Path("verdicts.csv"), [row])
        >>> print(Path("verdicts.csv").read_text(), end="")
        path,score,threshold,verdict
        a.png,0.7,0.5,defective
    """
    check_output_file(path)
    rows = [_flat(row) for row in rows]
    found = dict.fromkeys(name for row in rows for name in row)
    others = [name for name in found if name not in _FIRST + _LAST]
    columns = [*_FIRST, *others, *(name for name in _LAST if name in found)]
    # Names of files need not be valid text.
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with a column for each value of each half."""
    halves = {
        f"{half['name']}_{name}": value
        for half in row.get("halves", ())
        for name, value in half.items()
        if name != "name"
    }
    return {name: value for name, value in row.items() if name != "halves"} | halves
