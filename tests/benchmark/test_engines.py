"""A bench in several processes: the same rows as in one, and what is left after a process or the run was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench_rows import cells_of, rows_of, same
from toy_grids import write

from advrad.benchmark.batches import Batch, batches_of
from advrad.benchmark.grid import read_grid
from advrad.benchmark.jobs import jobs_of
from advrad.benchmark.run import Outcome, bench
from advrad.engine import Engine, LocalEngine, SerialEngine, everything
from advrad.utils.progress import SilentReporter

GRID = """
size_px = 64
limit = 4
[categories]
widget = "widget"
[detectors.plain]
kind = "pls"
steps = 1
[detectors.first]
kind = "own.py:fit"
weight = 2.0
[detectors.second]
kind = "own.py:fit"
weight = 3.0
[attacks.pgd]
attack = "pgd"
steps = 2
"""

#: Each fit leaves a line. The words that stand in files of the folder decide what else happens.
OWN = """
import os, signal, time
from pathlib import Path

HOME = Path(__file__).parent


def fit(context, weight):
    with (HOME / "fits").open("a") as file:
        print(weight, file=file)
    fits = (HOME / "fits").read_text().split()
    if weight == 3.0 and fits.count("3.0") <= len((HOME / "deaths").read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    while weight == 3.0 and (HOME / "wait").exists():
        time.sleep(0.05)
    mean = context.normal_images.batch(slice(None)).mean(0)
    return lambda images: weight * (images - mean).square().mean(1)
"""


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates: list[tuple[int, int]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, done: int, total: int) -> None:
        self.updates.append((done, total))


def make_home(folder: Path, widgets: Path) -> Path:
    (folder / "data").mkdir()
    shutil.copytree(widgets, folder / "data" / "widget")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    (folder / "deaths").write_text("", encoding="utf-8")
    write(folder, GRID)
    return folder


@pytest.fixture
def home(tmp_path: Path, widgets: Path) -> Path:
    return make_home(tmp_path, widgets)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, widgets: Path) -> Path:
    """The bench folder of one process; tests must not change it."""
    folder = make_home(tmp_path_factory.mktemp("alone"), widgets)
    assert measured(folder, None).done == 6
    return folder / "out"


def measured(home: Path, engine: Engine | None, progress: SilentReporter | None = None) -> Outcome:
    progress = progress or SilentReporter()
    return bench(read_grid(home / "grid.toml"), home / "data", home / "out", engine=engine, progress=progress)


def test_two_processes_measure_what_one_does(home: Path, alone: Path) -> None:
    listener = Listener()
    assert measured(home, LocalEngine(2), listener) == Outcome(planned=6, done=6, failed=())
    assert same(alone, home / "out") == 6
    assert sorted((home / "fits").read_text(encoding="utf-8").split()) == ["2.0", "3.0"]
    assert listener.updates[-7:] == [(done, 6) for done in range(7)]
    assert listener.notes[0].startswith("computing with 2 processes of 1 thread each")
    assert [note.partition("  ")[0] for note in listener.notes[1:]] == [f"{done} of 6" for done in range(1, 7)]
    assert not any((home / "out" / "work").iterdir())
    assert measured(home, LocalEngine(2)).done == 6
    assert len((home / "fits").read_text(encoding="utf-8").split()) == 2


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_own_cells_only(home: Path, alone: Path) -> None:
    (home / "deaths").write_text("x", encoding="utf-8")
    assert measured(home, LocalEngine(2)) == Outcome(planned=6, done=6, failed=())
    assert same(alone, home / "out") == 6
    assert sorted((home / "fits").read_text(encoding="utf-8").split()) == ["2.0", "3.0", "3.0"]


class Dying(SerialEngine):
    """Puts all jobs into one batch, whose process dies twice before it has done anything."""

    def run(self, work, tasks, *, left=everything, resources=None):  # type: ignore[no-untyped-def]
        batch = Batch(tuple(job for task in tasks for job in task.jobs))
        again = left(batch)
        assert again is batch
        yield from work(left(again))


def test_a_job_over_which_a_process_dies_twice_fails_and_the_rest_of_its_batch_goes_on(home: Path, alone: Path) -> None:
    outcome = measured(home, Dying())
    assert outcome.done == 4
    assert [line.partition(": ")[0] for line in outcome.failed] == ["plain on widget, clean", "plain on widget, pgd"]
    kept = rows_of(home / "out")
    assert len(kept) == 4 and kept.items() <= rows_of(alone).items()
    assert measured(home, None).done == 6
    assert same(alone, home / "out") == 6


@pytest.mark.slow
def test_a_detector_that_kills_its_process_fails_and_the_others_go_on(home: Path, alone: Path) -> None:
    (home / "deaths").write_text("x" * 9, encoding="utf-8")
    outcome = measured(home, LocalEngine(2))
    reason = "the process that measured it died twice, most likely because the memory was full; measure it again"
    assert outcome.done == 4
    assert sorted(outcome.failed) == [
        f"second on widget, {what}: {reason} with fewer jobs at once" for what in ("clean", "pgd")
    ]
    assert sorted((home / "fits").read_text(encoding="utf-8").split()) == ["2.0", "3.0", "3.0"]
    kept = rows_of(home / "out")
    assert len(kept) == 4 and kept.items() <= rows_of(alone).items()
    (home / "deaths").write_text("", encoding="utf-8")
    assert measured(home, None).done == 6
    assert same(alone, home / "out") == 6


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on(home: Path, alone: Path, how: signal.Signals) -> None:
    (home / "wait").touch()
    words = ["bench", "grid.toml", "-o", "out", "--data", "data", "--jobs", "2"]
    program = [sys.executable, "-c", "from advrad.cli.main import main; main()", *words]
    with subprocess.Popen(program, cwd=home, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 300
        while len(list((home / "out").glob("cells/*.json"))) < 4:
            assert process.poll() is None and time.monotonic() < until, "no cell was finished"
            time.sleep(0.05)
        os.kill(process.pid, how)
        _, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1].endswith("interrupted; finished cells are kept, and the same command continues")
        assert "Traceback" not in err
    (home / "wait").unlink()
    before = {path: path.read_bytes() for path in (home / "out" / "cells").glob("*.json")}
    assert len(before) == 4
    assert measured(home, LocalEngine(2)).done == 6
    assert {path: path.read_bytes() for path in before} == before
    assert same(alone, home / "out") == 6


SHARING = """
[categories]
one = "widget"
two = "widget"
[detectors.ours]
kind = "advrad"
[detectors.plain]
kind = "pls"
[detectors.paper]
kind = "paper"
sigma = 0.2
[detectors.pair]
kind = "guarded"
inner = "spade"
[detectors.spade]
kind = "spade"
[detectors.pure]
kind = "purified"
inner = "plain"
sigma = 0.2
"""


def test_what_shares_a_training_or_a_detector_goes_together(home: Path) -> None:
    jobs = jobs_of(read_grid(write(home, SHARING)), home / "data")
    found = [[f"{job.detector.label} {job.category}" for job in batch.jobs] for batch in batches_of(jobs)]
    assert found == [
        ["ours one", "plain one", "paper one", "pure one"],
        ["pair one", "spade one"],
        ["ours two", "plain two", "paper two", "pure two"],
        ["pair two", "spade two"],
    ]
    alone = [job for job in jobs if job.detector.label in ("plain", "spade")]
    assert [len(batch.jobs) for batch in batches_of(alone)] == [1, 1, 1, 1]
    shortened = [replace(job, tasks=job.tasks[:1]) for job in jobs]
    assert [job for batch in batches_of(shortened) for job in batch.jobs if len(job.tasks) != 1] == []
    assert cells_of(home / "out") == {}
