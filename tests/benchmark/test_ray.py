"""A bench on two Ray nodes: the same rows as in one process, and what the loss of a node costs."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_rows import same
from ray_nodes import ray_nodes
from toy_grids import quick_smoke, write

from advrad.benchmark.grid import read_grid
from advrad.benchmark.run import Outcome, bench
from advrad.benchmark.store import cached_folder
from advrad.demo.flange.render import write_product
from advrad.engine import open_engine
from advrad.errors import DataError
from advrad.utils.progress import SilentReporter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is missing: pip install 'advrad[ray]'"),
]

HELD = 1.0
GRID = """
size_px = 64
limit = 4
[categories]
widget = "widget"
[attacks.pgd]
attack = "pgd"
steps = 2
""" + "".join(f'[detectors."{weight}"]\nkind = "own.py:fit"\nweight = {weight}.0\n' for weight in range(1, 6))

OWN = """
import time
from pathlib import Path

HOME = Path(__file__).parent


def place():
    import ray
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"


def fit(context, weight):
    with (HOME / "fits").open("a") as file:
        print(weight, place(), file=file)
    while weight == 1.0 and (HOME / "wait").exists():
        time.sleep(0.05)
    mean = context.normal_images.batch(slice(None)).mean(0)
    return lambda images: weight * (images - mean).square().mean(1)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with ray_nodes(2) as nodes:
        yield nodes


def make_home(folder: Path, widgets: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    shutil.copytree(widgets, folder / "data" / "widget")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    write(folder, GRID)
    return folder


def fits(home: Path) -> list[tuple[float, str]]:
    """Weights of the fits, and the nodes on which they were."""
    lines = (home / "fits").read_text(encoding="utf-8").splitlines()
    return [(float(weight), node) for weight, node in map(str.split, lines)]


class Killer(SilentReporter):
    """Kills the node that holds a job once the cells of all others are measured."""

    def __init__(self, cluster: Any, home: Path) -> None:
        self.cluster, self.home, self.killed = cluster, home, ""

    def update(self, done: int, total: int) -> None:
        if self.killed or done < total - 2:
            return
        [self.killed] = [node for weight, node in fits(self.home) if weight == HELD]
        [node] = [node for node in self.cluster.list_all_nodes() if node.node_id == self.killed]
        self.cluster.remove_node(node, allow_graceful=False)
        (self.home / "wait").unlink()


def test_two_nodes_measure_what_one_process_does(tmp_path: Path, cluster: Any) -> None:
    product = write_product(tmp_path / "product", 0, 48, 4, 1, 64)
    grid = read_grid(write(tmp_path, quick_smoke()))
    alone = bench(grid, product, tmp_path / "alone")
    assert alone.failed == () and alone.done == alone.planned
    with open_engine("ray", address=cluster.address) as engine:
        assert engine.workers == 2
        assert bench(grid, product, tmp_path / "nodes", engine=engine) == alone
    assert same(tmp_path / "alone", tmp_path / "nodes") == alone.planned
    assert not (tmp_path / "nodes" / "models").exists(), "nodes need not share a folder"
    assert {path.name for path in (cached_folder() / "models").iterdir()} == {
        path.name for path in (tmp_path / "alone" / "models").iterdir()
    }


def test_a_lost_node_costs_its_own_cells_only(tmp_path: Path, widgets: Path, cluster: Any) -> None:
    alone, home = make_home(tmp_path / "alone", widgets), make_home(tmp_path / "nodes", widgets)
    bench(read_grid(alone / "grid.toml"), alone / "data", alone / "out")
    (home / "wait").touch()
    killer = Killer(cluster, home)
    with open_engine("ray", address=cluster.address) as engine:
        outcome = bench(read_grid(home / "grid.toml"), home / "data", home / "out", engine=engine, progress=killer)
    cluster.add_node(num_cpus=1)
    assert killer.killed
    assert outcome == Outcome(planned=10, done=10, failed=())
    assert same(alone / "out", home / "out") == 10
    assert sorted(weight for weight, _ in fits(home)) == [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert len({node for weight, node in fits(home) if weight == HELD}) == 2


def test_a_machine_with_other_images_is_refused(tmp_path: Path, widgets: Path, cluster: Any) -> None:
    home = make_home(tmp_path / "home", widgets)
    grid = read_grid(home / "grid.toml")
    changed = next((home / "data" / "widget" / "train").rglob("*.png"))

    class Changer(SilentReporter):
        def stage(self, title: str) -> None:
            if title == "Measuring":
                changed.write_bytes(changed.read_bytes() + b"0")

    with (
        open_engine("ray", address=cluster.address) as engine,
        pytest.raises(DataError, match=r"on the machine .*, the images of widget are missing or others than on"),
    ):
        bench(grid, home / "data", home / "out", engine=engine, progress=Changer())
    assert not (home / "fits").exists()
