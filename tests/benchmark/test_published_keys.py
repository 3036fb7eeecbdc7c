"""Published results are found by the keys of their cells, so the keys must not change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from advrad.benchmark import jobs
from advrad.benchmark.grid import read_grid

GRIDS = Path(__file__).parents[2] / "grids"
#: Digest of the keys of all cells and models of each grid, for absent images, as release 0.1 computed them.
KEYS = {
    "cpu": "6f4ab9c4deba8123",
    "dilemma": "fa3dd52dfad4843d",
    "paper": "1552263bc2898d7e",
    "rivals": "34c48f7e665b38b2",
    "smoke": "7e5dbd0a1c103813",
    "undefended": "00bc38fb5645bcbe",
}
#: What the grids gained since: it has keys of its own, and changes none.
ADDED = {"closed-form", "features", "guarded"}
ADDED_TO = {
    "cpu": {"grid", "macaroni1"},
    "undefended": {"advrad", "grid", "screw", "macaroni1", "magnetic_tile"},
    "rivals": {"patchcore"},
}


def is_new(name: str, detector: str, kind: str, category: str) -> bool:
    return kind in ADDED or bool({detector, category} & ADDED_TO.get(name, set()))


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_cells_are_those_of_the_published_results(name: str) -> None:
    grid = read_grid(GRIDS / f"{name}.toml")
    planned = [
        jobs._job(grid, entry, category, seed, Path("data"), None, "absent", ())
        for category in grid.categories
        for seed in grid.seeds
        for entry in grid.detectors.values()
        if not is_new(name, entry.label, entry.kind, category)
    ]
    keys = [task.cell.key for job in planned for task in job.tasks] + [job.model for job in planned]
    assert hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16] == KEYS[name]
