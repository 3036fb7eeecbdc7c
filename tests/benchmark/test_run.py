"""A bench measures every cell once, with several processes, after failures and after interruptions."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trained_run
from toy_grids import quick_smoke, write

from advrad.benchmark.cells import read_bench
from advrad.benchmark.estimate import estimates
from advrad.benchmark.grid import read_grid
from advrad.benchmark.jobs import jobs_of
from advrad.benchmark.report import bench_report
from advrad.benchmark.run import Outcome, bench, grid_progress
from advrad.benchmark.store import open_store
from advrad.demo.flange.render import write_product
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.environment import code_digest
from advrad.utils.progress import SILENT, ProgressReporter, SilentReporter
from advrad.utils.run_lock import exclusive

GRID = """
size_px = 64
limit = 4
[categories]
widget = "widget"
[detectors.ours]
kind = "advrad"
steps = 4
score = "paper"
[detectors."paper 0.2"]
kind = "paper"
sigma = 0.2
[detectors.bright]
kind = "own.py:fit"
weight = 2.0
[detectors."purified bright"]
kind = "purified"
inner = "bright"
sigma = 0.2
[attacks.pgd]
attack = "pgd"
steps = 2
[certificates.l2]
radius = "0.1"
draws = 40
confidence = 0.9
detectors = ["ours"]
"""

OWN = """
def fit(context, weight):
    mean = context.normal_images.batch(slice(None)).mean(0)
    return lambda images: weight * (images - mean).square().mean(1)
"""


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def home(tmp_path: Path, widgets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a grid and a user-defined detector."""
    trained_run.shrink(monkeypatch)
    (tmp_path / "data").mkdir()
    shutil.copytree(widgets, tmp_path / "data" / "widget")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    write(tmp_path, GRID)
    return tmp_path


def measured(home: Path, only: tuple[str, ...] = (), progress: ProgressReporter = SILENT) -> Outcome:
    return bench(read_grid(home / "grid.toml"), home / "data", home / "out", only=only, progress=progress)


def cells(home: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((home / "out" / "cells").glob("*.json"))}


BOUNDED = """
import torch
from advrad.detectors.base import DetectorOutput, ScoreBounds


class Darkness:
    size_px, deterministic, differentiable, threshold, noise_seed = None, True, True, 0.445, None
    surrogates = {}

    def infer(self, images, generator):
        maps = 1 - images.mean(1, keepdim=True)
        return DetectorOutput(maps.mean((1, 2, 3)), maps)

    def score_bounds(self, images, radius, norm):
        assert norm == "linf"
        scores = self.infer(images, None).scores
        return ScoreBounds(scores, scores - radius, scores + radius, self.infer(images, None).anomaly_maps - radius)


def fit(context):
    return Darkness()
"""


def test_detectors_with_exact_bounds_are_certified_at_the_attacks_radius(home: Path) -> None:
    (home / "own.py").write_text(BOUNDED, encoding="utf-8")
    text = '[categories]\nwidget = "widget"\n[detectors.dark]\nkind = "own.py:fit"\n[detectors.other]\nkind = "pls"\n'
    text += 'steps = 1\n[attacks.pgd]\nattack = "pgd"\neps = "8/255"\nsteps = 2\n'
    write(home, "size_px = 64\nlimit = 4\n" + text)
    assert measured(home).failed == ()
    attacks = {cell.detector: cell.figures for cell in read_bench(home / "out").done if cell.attack}
    keys = {cell.detector: cell.key for cell in read_bench(home / "out").done if cell.attack}
    dark, other = attacks["dark"], attacks["other"]
    assert dark.certified_at_eps is not None and dark.robust_auroc is not None and dark.certified_at_eps_ci is not None
    assert dark.certified_at_eps <= dark.robust_auroc
    assert other.certified_at_eps is None and other.found_at_eps is None
    rows = (home / "out" / "rows" / f"{keys['dark']}.jsonl").read_text(encoding="utf-8").splitlines()
    defects = [row["clean"] for row in map(json.loads, rows) if row["label"]]
    assert min(defects) > 0.445 > min(defects) - 8 / 255, "choose a threshold that all exceed, but not all certainly"
    assert dark.found_at_eps == sum(score - 8 / 255 > 0.445 for score in defects) / len(defects) > 0
    files = bench_report(home / "out", home / "report")
    assert {path.name for path in files} >= {"tables.md", "tables.tex", "results.csv"}
    for name in ("tables.md", "tables.tex", "index.html"):
        assert "certified linf 8/255" in (home / "report" / name).read_text(encoding="utf-8"), name
    with (home / "report" / "results.csv").open(encoding="utf-8") as file:
        rows = {(row["detector"], row["attack"]): row["certified_at_eps"] for row in csv.DictReader(file)}
    assert float(rows["dark", "pgd"]) == dark.certified_at_eps
    assert rows["other", "pgd"] == rows["dark", ""] == ""


def test_a_score_that_points_the_wrong_way_or_nowhere_is_distrusted(home: Path) -> None:
    own = """
def fit(context, sign):
    mean = context.normal_images.batch(slice(None)).mean(0)
    return lambda images: sign * (images - mean).abs().amax((1, 2, 3))
"""
    (home / "own.py").write_text(own, encoding="utf-8")
    signs = {"right": 1.0, "wrong": -1.0, "blind": 0.0}
    text = '[categories]\nwidget = "widget"\n'
    text += "".join(f'[detectors.{name}]\nkind = "own.py:fit"\nsign = {sign}\n' for name, sign in signs.items())
    grid = read_grid(write(home, text))
    bench(grid, home / "data", home / "out")
    found = {cell.detector: cell for cell in read_bench(home / "out").done}
    flags = {name: [reason.name for reason in cell.reasons] for name, cell in found.items()}
    assert found["right"].figures.image_auroc == 1.0
    assert flags == {"right": [], "wrong": ["wrong direction"], "blind": ["constant score"]}


def test_every_cell_is_measured_once_and_kept(home: Path) -> None:
    first = measured(home)
    assert first == Outcome(planned=9, done=9, failed=())
    before = cells(home)
    listener = Listener()
    assert measured(home, progress=listener) == first
    assert cells(home) == before
    assert listener.notes == ["9 cells are already measured and are kept"]
    assert not any((home / "out" / "work").iterdir())

    found = {(cell.detector, cell.attack, cell.certificate): cell for cell in read_bench(home / "out").done}
    assert len(found) == 9
    clean = found["bright", None, None]
    assert (clean.figures.n_normal, clean.figures.n_anomalous) == (6, 5)
    assert clean.figures.image_auroc is not None and clean.figures.pixel_auroc is not None
    attacked = found["bright", "pgd", None]
    assert (attacked.figures.n_normal, attacked.figures.n_anomalous) == (2, 2)
    assert attacked.figures.robust_auroc is not None and attacked.figures.clean_auroc is not None
    assert attacked.figures.robust_auroc <= attacked.figures.clean_auroc
    assert attacked.gradients == attacked.figures.gradients == 2 * 4 and attacked.figures.arithmetic == "float32"
    assert attacked.options == {"arguments": {"weight": 2.0}}
    assert found["ours", None, "l2"].figures.certified_auroc.keys() == {"0.1"}
    for cell in found.values():
        assert cell.code == code_digest()
        assert cell.versions.keys() >= {"advrad", "torch", "python"}
        rows = (home / "out" / "rows" / f"{cell.key}.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(rows) == cell.figures.images
        assert all("name" in json.loads(row) for row in rows)


def test_the_clean_figures_are_those_of_the_audit_on_the_same_pictures(home: Path) -> None:
    (home / "grid.toml").write_text(GRID.replace("limit = 4\n", ""), encoding="utf-8")
    measured(home)
    found = {(cell.detector, cell.attack): cell for cell in read_bench(home / "out").done if not cell.certificate}
    for label in ("ours", "paper 0.2", "bright"):
        clean, attacked = found[label, None].figures, found[label, "pgd"].figures
        # An attack is evaluated with fresh noise; without noise the two scores are equal.
        if label == "bright":
            assert clean.image_auroc == attacked.clean_auroc
        assert clean.images == attacked.images == 11


def test_a_cell_that_fails_is_recorded_and_the_rest_go_on(home: Path) -> None:
    (home / "own.py").write_text("def fit(context, weight): return 1 / 0", encoding="utf-8")
    outcome = measured(home)
    assert outcome.done == 5
    assert len(outcome.failed) == 4
    assert "bright on widget, clean: ZeroDivisionError: division by zero" in outcome.failed
    failed = read_bench(home / "out").failed
    assert {(cell.detector, cell.error) for cell in failed} == {
        ("bright", "ZeroDivisionError: division by zero"),
        ("purified bright", "ZeroDivisionError: division by zero"),
    }
    listener = Listener()
    again = measured(home, progress=listener)
    assert "4 cells failed before and are tried again" in listener.notes
    assert len(again.failed) == 4


def test_what_stands_before_another_may_teach_it(home: Path) -> None:
    told = "    with open(__file__ + '.told', 'a') as file: print(float(mean.std()), file=file)\n    return"
    (home / "own.py").write_text(OWN.replace("    return", told), encoding="utf-8")
    taught = '[detectors.taught]\nkind = "purified"\ninner = "bright"\nsigma = 0.2\nlearns = "purified"\n'
    (home / "grid.toml").write_text(GRID + taught, encoding="utf-8")
    assert measured(home, ("purified bright", "taught")).done == 4
    given, purified = (home / "own.py.told").read_text(encoding="utf-8").split()
    assert given != purified


def test_a_changed_grid_keeps_old_results_and_says_so(home: Path) -> None:
    measured(home, ("bright",))
    before = cells(home)
    assert len(before) == 2
    (home / "grid.toml").write_text(GRID.replace("weight = 2.0", "weight = 3.0"), encoding="utf-8")
    listener = Listener()
    measured(home, ("bright",), listener)
    assert any("2 results in cells/ belong to no cell of this grid" in note for note in listener.notes)
    after = cells(home)
    assert len(after) == 4
    assert {key: after[key] for key in before} == before
    assert {cell.options["arguments"]["weight"] for cell in read_bench(home / "out").done} == {3.0}


def test_results_of_other_code_are_kept_and_named(home: Path) -> None:
    measured(home, ("bright",))
    path = sorted((home / "out" / "cells").glob("*.json"))[0]
    path.write_text(path.read_text(encoding="utf-8").replace(code_digest(), "0123456789ab"), encoding="utf-8")
    listener = Listener()
    measured(home, ("bright",), listener)
    assert any("1 of the measured cells were made by another version of the code" in note for note in listener.notes)


def test_a_damaged_result_stops_the_bench_and_is_named(home: Path) -> None:
    measured(home, ("bright",))
    path = sorted((home / "out" / "cells").glob("*.json"))[0]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=f"{path.name}: is damaged"):
        measured(home, ("bright",))


def test_a_second_run_in_the_folder_is_refused(home: Path, cli: trained_run.Cli) -> None:
    measured(home, ("bright",))
    other = write(home, GRID.replace("weight = 2.0", "weight = 4.0"), "other.toml")
    before, plan = cells(home), (home / "out" / "grid.json").read_bytes()
    with exclusive(home / "out", "benchmark"):
        for grid in (other, home / "grid.toml"):
            refused = cli("bench", grid, "-o", home / "out", "--data", home / "data", "--only", "bright")
            assert refused.status == 2
            *stages, line = refused.err.splitlines()
            assert stages == ["Reading the images of the grid"]
            assert f"{home / 'out'}: another benchmark is at work here (process " in line
            assert line.endswith("; wait until it has ended, or name another folder")
    assert (cells(home), (home / "out" / "grid.json").read_bytes()) == (before, plan)
    assert measured(home, ("bright",)).done == 2


def test_one_of_several_processes_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"jobs: a bench is begun by one process.*torchrun started 2; leave it out"):
        measured(home)
    assert not (home / "out").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert measured(home, ("bright",)).done == 2


def test_an_error_of_ours_while_writing_ends_the_bench(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OutputError(f"{path}: cannot be written: the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("advrad.benchmark.store.write_text", full)
        with pytest.raises(OutputError, match="the disk is full"):
            measured(home, ("bright",))
    assert cells(home) == {}
    assert measured(home, ("bright",)).done == 2


def test_standing_and_estimates_write_nothing(home: Path) -> None:
    jobs = jobs_of(read_grid(home / "grid.toml"), home / "data")
    store = open_store(home / "out")
    assert grid_progress(store, jobs).done == frozenset()
    left = {part.label: part for part in estimates(jobs, store)}
    assert {label: part.cells for label, part in left.items()} == {
        "ours": 3,
        "paper 0.2": 2,
        "bright": 2,
        "purified bright": 2,
    }
    assert all(part.seconds > 0 for part in left.values())
    assert not (home / "out").exists()


def test_estimates_know_the_size_and_the_parts_of_a_score(home: Path) -> None:
    def left(size_px: int) -> dict[str, float]:
        text = f'size_px = {size_px}\n[categories]\nwidget = "widget"\n[detectors.plain]\nkind = "pls"\n'
        text += '[detectors.pair]\nkind = "guarded"\ninner = "plain"\n[detectors.bounds]\nkind = "closed-form"\n'
        text += '[attacks.suite]\nbudget = "quick"\ndetectors = ["plain", "pair"]\n'
        text += '[certificates.exact]\nnorm = "linf"\nradius = "2/255"\ndetectors = ["bounds"]\n'
        jobs = jobs_of(read_grid(write(home, text)), home / "data")
        fits = {"plain": 60.0, "pair": 150.0, "bounds": 30.0}
        return {part.label: part.seconds - fits[part.label] for part in estimates(jobs, open_store(home / "none"))}

    small, large = left(128), left(256)
    for label, seconds in large.items():
        assert seconds == pytest.approx(4 * small[label])
    # The pair costs both halves, and each of its parts is attacked alone, too.
    assert large["pair"] > (0.25 + 0.05) / 0.05 * large["plain"]
    assert large["bounds"] < large["plain"], "exact bounds take no draws"


def test_the_commands(home: Path, cli: trained_run.Cli) -> None:
    arguments = (home / "grid.toml", "-o", home / "out", "--data", home / "data", "--only", "bright")
    plan = cli("bench", *arguments, "--dry-run")
    assert plan.status == 0
    assert "bright" in plan.out and "hours" in plan.out
    assert not (home / "out").exists()
    done = cli("bench", *arguments)
    assert done.status == 0, done.err
    assert "2 of 9 cells" in done.out
    assert f"advrad report {home / 'out'}" in done.out
    assert "nothing is left to do" in cli("bench", *arguments, "--dry-run").out
    report = cli("report", home / "out")
    assert report.status == 0, report.err
    assert (home / "out" / "report" / "index.html").is_file()
    assert "a.toml: there is no such file" in cli("bench", home / "a.toml", "-o", home / "out").one_error_line()
    missing = cli("bench", home / "grid.toml", "-o", home / "out", "--data", home / "none")
    assert missing.status == 2
    assert "categories.widget" in missing.err.splitlines()[-1]
    (home / "own.py").write_text("def fit(context, weight): return 1 / 0", encoding="utf-8")
    failed = cli("bench", *arguments)
    assert failed.status == 1
    assert "ZeroDivisionError" in failed.err


KILLED = """
import time
import advrad.benchmark.run as run
from advrad.cli import main
take = run._Run._take
def slow(self, measured):
    take(self, measured)
    print("written", flush=True)
    time.sleep(60)
run._Run._take = slow
main()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_bench_that_is_stopped_goes_on(home: Path, how: signal.Signals) -> None:
    arguments = ["bench", "grid.toml", "-o", "out", "--data", "data", "--only", "bright"]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "written"
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; finished cells are kept, and the same command continues" in err
    before = cells(home)
    assert len(before) == 1
    assert measured(home, ("bright",)).done == 2  # the lock of a dead process is free at once
    after = cells(home)
    assert {key: after[key] for key in before} == before


def test_the_smoke_grid_runs(tmp_path: Path, cli: trained_run.Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run.shrink(monkeypatch)
    product = write_product(tmp_path / "product", 0, 48, 4, 1, 64)
    grid = write(tmp_path, quick_smoke())
    done = cli("bench", grid, "-o", tmp_path / "out", "--data", product)
    assert done.status == 0, done.err
    report = cli("report", tmp_path / "out")
    assert report.status == 0, report.err
    bench = read_bench(tmp_path / "out")
    assert len(bench.done) == len(bench.planned)
    table = (tmp_path / "out" / "report" / "tables.md").read_text(encoding="utf-8")
    for place in bench.planned:
        assert place.detector in table
