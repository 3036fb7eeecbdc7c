"""Grids: their error messages, and what the keys of their cells depend on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toy_grids import GRID, write

from advrad.benchmark.grid import Grid, read_grid
from advrad.benchmark.jobs import Job, jobs_of
from advrad.errors import ConfigError


def refused(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigError) as error:
        read_grid(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


@pytest.fixture
def data(tmp_path: Path, widgets: Path) -> Path:
    (tmp_path / "data").mkdir()
    shutil.copytree(widgets, tmp_path / "data" / "widget")
    return tmp_path / "data"


def keys(jobs: tuple[Job, ...]) -> dict[tuple[str, int, str | None], str]:
    return {
        (task.cell.detector, task.cell.seed, task.cell.attack or task.cell.certificate): task.cell.key
        for job in jobs
        for task in job.tasks
    }


def changed(data: Path, old: str, new: str) -> set[tuple[str, int, str | None]]:
    """Find the cells whose key changes with the grid."""
    assert old in GRID
    before = keys(jobs_of(read_grid(write(data)), data))
    after = keys(jobs_of(read_grid(write(data, GRID.replace(old, new))), data))
    return {cell for cell, key in before.items() if after.get(cell) != key}


def test_every_cell_is_planned_once(data: Path) -> None:
    grid = read_grid(write(data))
    jobs = jobs_of(grid, data)
    assert [(job.detector.label, job.seed) for job in jobs] == [
        (label, seed) for seed in (0, 1) for label in ("ours", "plain", "clean")
    ]
    tests = {job.detector.label: [t.cell.attack or t.cell.certificate for t in job.tasks] for job in jobs}
    assert tests == {"ours": [None, "pgd", "l2"], "plain": [None, "pgd", "suite"], "clean": [None, "pgd"]}
    every = keys(jobs)
    assert len(every) == len(set(every.values())) == 16
    assert keys(jobs_of(grid, data)) == every
    for job in jobs:
        for task in job.tasks:
            if task.attack is not None:
                assert (task.attack.seed, task.attack.limit, task.attack.size_px) == (job.seed, 4, 64)


def test_who_uses_our_training_shares_it(data: Path) -> None:
    models = {(job.detector.label, job.seed): job.model for job in jobs_of(read_grid(write(data)), data)}
    assert models["ours", 0] == models["clean", 0] != models["ours", 1]
    assert models["plain", 0] == ""


def test_a_key_follows_from_what_decides_the_result(data: Path) -> None:
    seeds, tests = (0, 1), (None, "pgd")
    assert changed(data, 'attack = "pgd"\nsteps = 2', 'attack = "pgd"\nsteps = 3') == {
        (label, seed, "pgd") for label in ("ours", "plain", "clean") for seed in seeds
    }
    # The purifier wraps the autoencoder and uses the trained AdvRAD.
    assert changed(data, 'kind = "autoencoder"\nsteps = 2', 'kind = "autoencoder"\nsteps = 3') == {
        *(("plain", seed, test) for seed in seeds for test in (*tests, "suite")),
        *(("clean", seed, test) for seed in seeds for test in tests),
    }
    assert changed(data, "steps = 4", "steps = 5") == {
        *(("ours", seed, test) for seed in seeds for test in (*tests, "l2")),
        *(("clean", seed, test) for seed in seeds for test in tests),
    }
    assert changed(data, 'detectors = ["plain"]', 'detectors = ["plain", "ours"]') == set()


def test_other_images_are_other_cells(data: Path) -> None:
    grid = read_grid(write(data))
    before = keys(jobs_of(grid, data))
    image = sorted((data / "widget" / "test").rglob("*.png"))[0]
    image.write_bytes(sorted((data / "widget" / "test").rglob("*.png"))[1].read_bytes())
    after = keys(jobs_of(grid, data))
    assert not set(before.values()) & set(after.values())


def test_only_some(data: Path) -> None:
    grid = read_grid(write(data, GRID.replace('widget = "widget"', 'widget = "widget"\nabsent = "nowhere"')))
    with pytest.raises(
        ConfigError, match=r"categories\.absent: .*nowhere: there is no such folder.*data folder.*only other"
    ):
        jobs_of(grid, data)
    jobs = jobs_of(grid, data, ["widget", "plain"])
    assert {(job.detector.label, job.category) for job in jobs if job.dataset} == {("plain", "widget")}
    assert len(jobs) == 12
    jobs = jobs_of(grid, data, ["widget", "suite"])
    meant = [
        t.cell.attack or t.cell.certificate for j in jobs if j.dataset and j.seed == 0 for t in j.tasks if t.selected
    ]
    assert meant == [None, None, "suite", None]
    with pytest.raises(ConfigError, match="only thing: is no detector, category, attack or certificate"):
        jobs_of(grid, data, ["thing"])


def test_a_detector_of_ones_own(data: Path) -> None:
    text = GRID.replace('kind = "autoencoder"', 'kind = "own.py:fit"')
    assert "there is no file" in refused(data, text)
    (data / "own.py").write_text("def fit(context, steps): ...", encoding="utf-8")
    path = write(data, text)
    before = keys(jobs_of(read_grid(path), data))
    (data / "own.py").write_text("def fit(context, steps): pass", encoding="utf-8")
    after = keys(jobs_of(read_grid(path), data))
    assert {cell[0] for cell, key in before.items() if after[cell] != key} == {"plain", "clean"}


def test_a_later_option_changes_keys_only_where_it_is_given(data: Path) -> None:
    """The keys of docs/results were computed without it."""
    before = keys(jobs_of(read_grid(write(data)), data))
    for value, changes in (("auto", False), ("float32", True)):
        text = GRID.replace('attack = "pgd"', f'attack = "pgd"\ngradients = "{value}"')
        after = keys(jobs_of(read_grid(write(data, text)), data))
        other = {cell for cell, key in before.items() if after[cell] != key}
        assert bool(other) is changes
        assert {cell[2] for cell in other} <= {"pgd"}


def test_a_file_that_an_option_names_decides_too(data: Path) -> None:
    weights = data / "weights.safetensors"
    weights.write_bytes(b"one")
    path = write(data, GRID.replace('kind = "autoencoder"\nsteps = 2', f'kind = "robust-knn"\nweights = "{weights}"'))
    before = keys(jobs_of(read_grid(path), data))
    weights.write_bytes(b"two")
    after = keys(jobs_of(read_grid(path), data))
    assert {cell[0] for cell, key in before.items() if after[cell] != key} == {"plain", "clean"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "autoencoder"', 'kind = "autoencodr"', "detectors.plain: kind 'autoencodr' is unknown; did you mean"),
        ('kind = "autoencoder"', 'kind = "x"', "detectors.plain: kind 'x' is unknown; choose advrad, "),
        ('kind = "autoencoder"\n', "", "detectors.plain: has no `kind`; choose advrad, "),
        ('kind = "autoencoder"\nsteps', 'kind = "autoencoder"\nstep', "detectors.plain: step: is unknown"),
        ('inner = "plain"', 'inner = "plan"', "detectors.clean: inner: 'plan' is no detector of this grid"),
        ('inner = "plain"', 'inner = "clean"', "detectors.clean: wraps itself"),
        ('kind = "advrad"\nsteps = 4', 'kind = "autoencoder"', "detectors.clean: needs a trained diffusion model"),
        ("limit = 4", 'diffusion = "plain"', "diffusion: 'plain' is no detector of kind advrad"),
        ('attack = "pgd"', 'attack = "pdg"', "attacks.pgd: attack pdg: is unknown; choose "),
        ('attack = "pgd"', 'attack = "pgd"\neps = "2/0"', "attacks.pgd: eps 2/0: "),
        ('attack = "pgd"', 'attack = "pgd"\nseed = 3', "attacks.pgd: seed is set for the whole grid"),
        ('budget = "quick"', 'budget = "quik"', "attacks.suite: budget quik: is unknown"),
        ('detectors = ["plain"]', 'detectors = ["plan"]', "attacks.suite: detectors: 'plan' is no detector"),
        ('radius = "0.1"', 'radius = "x"', "certificates.l2: radius x: must be a number or a fraction"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds: must be 0 or more, and all different"),
        ("seeds = [0, 1]", "seed = [0, 1]", "seed: is unknown"),
        ("limit = 4", "limit = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_with_a_grid_is_said(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GRID
    assert words in refused(tmp_path, GRID.replace(old, new, 1))


def test_a_missing_grid(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        read_grid(tmp_path / "none.toml")


def test_a_guarded_advrad_uses_the_trained_one(tmp_path: Path) -> None:
    added = '[detectors.pair]\nkind = "guarded"\ninner = "ours"\n[detectors.other]\nkind = "guarded"\ninner = "plain"\n'
    found = read_grid(write(tmp_path, GRID + added)).detectors
    assert found["pair"].inner is found["pair"].trained is found["ours"]
    assert found["other"].inner is found["plain"] and found["other"].trained is None


GRIDS = sorted((Path(__file__).parents[2] / "grids").glob("*.toml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_grids_of_the_repository_make_sense(path: Path) -> None:
    grid = read_grid(path)
    assert isinstance(grid, Grid)
    assert grid.name == path.stem
