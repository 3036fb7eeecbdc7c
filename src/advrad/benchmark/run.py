"""A bench: every cell of a grid, measured once, in a folder that many processes may work in and any may leave.

``grid.json`` holds the plan, ``cells/KEY.json`` each result, ``rows/KEY.jsonl`` its images' scores, ``models/`` the
trainings of our own detector, ``claims/`` who is at what, and ``work/`` what was interrupted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from advrad.benchmark.cells import FORMAT, Cell, read_cell
from advrad.benchmark.fitting import Locked
from advrad.benchmark.grid import Grid
from advrad.benchmark.job import JobRunner, code_digest
from advrad.benchmark.jobs import CellTask, Job, jobs_of
from advrad.errors import OutputError
from advrad.utils.files import make_folder, write_json
from advrad.utils.locks import lease, live
from advrad.utils.progress import SILENT, ProgressReporter

#: Between looks at what other processes are doing.
_WAIT_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a process leaves behind.

    Attributes:
        planned: cells of the whole grid.
        done: those with figures, whoever measured them.
        failed: what failed in this process, one line each.
        elsewhere: cells that other processes are at.
    """

    planned: int
    done: int
    failed: tuple[str, ...]
    elsewhere: int


@dataclass(frozen=True)
class BenchProgress:
    """What a folder holds of a grid.

    Attributes:
        done: keys of the cells with figures.
        failed: keys of those that failed.
        notes: what is to be said before work begins.
    """

    done: frozenset[str]
    failed: frozenset[str]
    notes: tuple[str, ...]


def bench(
    grid: Grid, data: Path, folder: Path, *, only: Sequence[str] = (), progress: ProgressReporter = SILENT
) -> Outcome:
    """Measure every cell of a grid that the folder does not hold yet.

    Any number of processes may do so in one folder at once. Whatever ends one of them, what it finished stays, and the
    same command goes on. Cells that failed are tried again.

    Args:
        grid: see :func:`advrad.benchmark.grid.read_grid`.
        data: folder that its categories lie in.
        folder: of the results; made if missing.
        only: labels of what is worked on, see :func:`advrad.benchmark.grid.jobs_of`.
        progress: Receives the progress.

    Raises:
        ConfigError: a label is unknown, or a category is missing.
        OutputError: a result cannot be written, or another grid is being measured in the folder.
    """
    _stand_alone()
    progress.stage("Reading the images of the grid")
    jobs = jobs_of(grid, data, only)
    make_folder(folder / "cells")
    _claim_folder(folder, grid, jobs)
    before = grid_progress(folder, jobs)
    for note in before.notes:
        progress.note(note)
    tried: set[str] = set()
    failed = []

    def wanted(job: Job) -> tuple[CellTask, ...]:
        done = {cell.key for cell in held_cells(folder, job) if cell.done}
        return tuple(task for task in job.tasks if task.selected and task.cell.key not in done | tried)

    inner = frozenset(entry.inner.label for entry in grid.detectors.values() if entry.inner is not None)
    at_work = JobRunner(folder, grid.path, grid.size_px, progress, inner)
    pending = [job for job in jobs if job.dataset is not None and wanted(job)]
    total = sum(len(wanted(job)) for job in pending)
    while pending:
        left, waits = [], False
        for job in pending:
            with lease(folder / "claims", f"job-{job.name}") as mine:
                if not mine:
                    left.append(job)
                    continue
                tasks = wanted(job)  # others may have measured some since
                try:
                    for cell in at_work.measure(job, tasks) if tasks else ():
                        tried.add(cell.key)
                        label = f"{cell.detector} on {cell.category}, {cell.attack or cell.certificate or 'clean'}"
                        said = f"failed: {cell.error}" if not cell.done else f"{(cell.seconds or 0):.0f} s"
                        progress.note(f"{len(tried)} of {total}  {label}: {said}")
                        if not cell.done:
                            failed.append(f"{label}: {cell.error}")
                except Locked:
                    left.append(job)
                    waits = True
        if len(left) == len(pending):
            if not waits:
                break  # the rest is with others
            time.sleep(_WAIT_S)
        pending = [job for job in left if wanted(job)]
    after = grid_progress(folder, jobs)
    elsewhere = sum(len(wanted(job)) for job in pending)
    return Outcome(sum(len(job.tasks) for job in jobs), len(after.done), tuple(failed), elsewhere)


def grid_progress(folder: Path, jobs: Iterable[Job]) -> BenchProgress:
    """Look at what a folder holds of a grid's cells; nothing is written.

    Raises:
        DataError: a result is damaged.
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
        notes.append(f"{len(done)} cells are measured already and stay as they are")
    if failed:
        notes.append(f"{len(failed)} cells failed before and are tried again")
    if other_code:
        notes.append(
            f"{other_code} of the measured cells were made by another version of the code; to measure them anew, delete"
            " their files in cells/, or name another folder"
        )
    if orphans:
        notes.append(
            f"{orphans} results in cells/ belong to no cell of this grid as it is now (a label, an option or a"
            " image changed); they are kept, and not used"
        )
    return BenchProgress(frozenset(done), frozenset(failed), tuple(notes))


def held_cells(folder: Path, job: Job) -> tuple[Cell, ...]:
    """Those cells of a job that a folder holds, failed ones among them.

    Raises:
        DataError: one is damaged.
    """
    found = (read_cell(folder, task.cell) for task in job.tasks)
    return tuple(cell for cell in found if cell is not None)


def _claim_folder(folder: Path, grid: Grid, jobs: Iterable[Job]) -> None:
    """Write the plan down, unless another grid is being measured here at this moment."""
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
                " another folder with -o"
            )
    write_json(path, plan)


def _stand_alone() -> None:
    """Make this process independent of those that ``accelerate launch`` started with it.

    They share the folder, not the tensors: each measures cells of its own, on a device of its own.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = rank
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
