"""What two benches of one grid must have in common: everything but times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Fields of cells and rows that say when and how long.
TIMES = ("finished", "seconds", "fit_seconds")


def cells_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The cells of a bench folder by key, without times."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "cells").glob("*.json")}
    return {key: {name: value for name, value in cell.items() if name not in TIMES} for key, cell in found.items()}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The scores of all images of a bench folder, by key of the cell, without times."""
    found = {}
    for path in (folder / "rows").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[path.stem] = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
    return found


def same(first: Path, second: Path) -> int:
    """Compare two bench folders, and say how many cells they have."""
    cells = cells_of(first)
    assert cells_of(second) == cells
    assert rows_of(second) == rows_of(first)
    assert (second / "grid.json").read_bytes() == (first / "grid.json").read_bytes()
    return len(cells)
