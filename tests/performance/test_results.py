"""Published results: the page shows the stored rows, and a cell of each kind can be reproduced."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from results import PAGE, ROWS, with_tables

from advrad.benchmark.cells import Cell, read_bench
from advrad.benchmark.grid import read_grid
from advrad.benchmark.run import bench

GRIDS = ROWS.parents[1] / "grids"


def test_the_page_shows_the_stored_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- tables: ") == len(list(ROWS.iterdir()))
    assert with_tables(page) == page


@pytest.mark.parametrize("folder", sorted(ROWS.iterdir()), ids=lambda folder: folder.name)
def test_the_stored_grid_is_part_of_the_grid_of_the_repository(folder: Path) -> None:
    plan = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
    stored = tomllib.loads(plan["grid"])
    now = tomllib.loads((GRIDS / f"{folder.name}.toml").read_text(encoding="utf-8"))
    for part in ("categories", "detectors", "attacks", "certificates"):
        assert stored.pop(part, {}).items() <= now.pop(part, {}).items(), part
    assert stored == now
    assert all(path.stat().st_size < 10_000 for path in (folder / "cells").iterdir())


def kept(detector: str, category: str) -> dict[str | None, Cell]:
    """The stored cells of one detector and one product, by their attack or certificate."""
    cells = read_bench(ROWS / "cpu").done
    return {c.attack or c.certificate: c for c in cells if (c.detector, c.category) == (detector, category)}


def again(folder: Path, data: Path, detector: str, category: str, tests: list[str]) -> dict[str | None, Cell]:
    """The same cells, measured again."""
    bench(read_grid(GRIDS / "cpu.toml"), data, folder, only=(detector, category, *tests))
    found = read_bench(folder).cells.values()
    assert all(cell.done for cell in found), [cell.error for cell in found]
    return {cell.attack or cell.certificate: cell for cell in found}


def assert_inside(value: float | None, interval: tuple[float, float] | None) -> None:
    assert value is not None and interval is not None
    assert interval[0] <= value <= interval[1]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "detector",
    ["autoencoder", "advrad", pytest.param("spade", marks=pytest.mark.anomalib)],
)
def test_cells_can_be_reproduced(tmp_path: Path, shared_data: Path, detector: str) -> None:
    before = kept(detector, "bottle")
    tests = [label for label in before if label is not None]
    assert tests
    now = again(tmp_path / "out", shared_data, detector, "bottle", tests)
    assert now.keys() == before.keys()
    for label, cell in before.items():
        old, new = cell.figures, now[label].figures
        if cell.certificate is not None:
            for radius, area in old.certified_auroc.items():
                # A bound has no interval. Seed and draws are the same, so only rounding differs.
                assert new.certified_auroc[radius] == pytest.approx(area, abs=0.05)
        elif cell.attack is not None:
            assert_inside(new.robust_auroc, old.robust_auroc_ci)
        else:
            assert_inside(new.image_auroc, old.image_auroc_ci)
            assert new.image_auroc == pytest.approx(old.image_auroc, abs=0.02)
