"""What a machine that does not share files checks before it measures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toy_grids import write

from advrad.benchmark.batches import Batch, BatchRunner, batches_of
from advrad.benchmark.grid import Grid, read_grid
from advrad.benchmark.jobs import jobs_of
from advrad.benchmark.store import cached_folder
from advrad.errors import DataError

GRID = """
size_px = 64
[categories]
widget = "widget"
[detectors.own]
kind = "own.py:fit"
[detectors.pure]
kind = "purified"
inner = "own"
sigma = 0.2
[detectors.ours]
kind = "advrad"
"""

OWN = """
def fit(context):
    mean = context.normal_images.batch(slice(None)).mean(0)
    return lambda images: (images - mean).square().mean(1)
"""


@pytest.fixture
def home(tmp_path: Path, widgets: Path) -> Path:
    (tmp_path / "data").mkdir()
    shutil.copytree(widgets, tmp_path / "data" / "widget")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    write(tmp_path, GRID)
    return tmp_path


@pytest.fixture
def grid(home: Path) -> Grid:
    return read_grid(home / "grid.toml")


def planned(grid: Grid, home: Path, label: str) -> Batch:
    [job] = [job for job in jobs_of(grid, home / "data") if job.detector.label == label]
    return Batch((job,))


def runner(grid: Grid) -> BatchRunner:
    return BatchRunner(None, grid.path, grid.size_px, frozenset(), None)


def test_what_it_keeps_is_in_its_cache(grid: Grid, home: Path) -> None:
    [measured] = list(runner(grid)(planned(grid, home, "own")))
    assert measured.cell.done and measured.rows is not None
    assert len(measured.rows.splitlines()) == 11
    assert {path.name for path in home.iterdir()} == {"data", "own.py", "grid.toml"}
    assert list((cached_folder() / "work").iterdir()) == []


@pytest.mark.parametrize("label", ["own", "pure"])
def test_another_file_of_a_detector_is_refused(grid: Grid, home: Path, label: str) -> None:
    batch = planned(grid, home, label)
    (home / "own.py").write_text(OWN + "\n# changed\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"grid\.toml: on the machine .*, the files that own depends on are missing"):
        next(runner(grid)(batch))
    (home / "own.py").unlink()
    with pytest.raises(DataError, match="the files that own depends on are missing or others"):
        next(runner(grid)(batch))


def test_other_images_are_refused(grid: Grid, home: Path) -> None:
    batch = planned(grid, home, "own")
    image = next((home / "data" / "widget" / "test").rglob("*.png"))
    content = image.read_bytes()
    for changed in (content + b"0", None):
        image.unlink() if changed is None else image.write_bytes(changed)
        with pytest.raises(DataError, match=r"widget: on the machine .*, the images of widget are missing or others"):
            next(runner(grid)(batch))
    image.write_bytes(content)
    assert next(runner(grid)(batch)).cell.done


def test_batches_keep_the_order_of_jobs(grid: Grid, home: Path) -> None:
    jobs = jobs_of(grid, home / "data")
    assert [[job.detector.label for job in batch.jobs] for batch in batches_of(jobs)] == [["own", "pure", "ours"]]
    assert batches_of(()) == ()
