"""Estimated time of a bench, from results in its folder or else from rough guesses."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from advrad.attacks.options import AttackOptions
from advrad.attacks.suite import suite_attacks
from advrad.baselines.registry import BASELINES
from advrad.benchmark.cells import read_cells
from advrad.benchmark.grid import OURS, DetectorEntry
from advrad.benchmark.jobs import CellTask, Job
from advrad.benchmark.store import BenchStore
from advrad.detectors.base import SurrogateLoss
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.training.options import DEFAULT_MINUTES, RunOptions

#: Rough guesses for AdvRAD on one core at 256 px, in seconds: a training step, and one gradient of its score.
_STEP_S, _GRADIENT_S = 0.6, 0.1
#: The same guesses for user-defined detectors: a fit, and one gradient.
_OWN_FIT_S, _OWN_GRADIENT_S = 60.0, 0.05
#: Side of the images, in pixels, to which the guesses of gradients refer; their time grows with the area.
_GUESSED_PX = 256
#: Time of scoring an image without gradient, as a share of the time with it.
_JUDGE = 0.4
#: Time of exact bounds of the score of an image, as a multiple of the time of scoring it.
_BOUNDS = 4


@dataclass(frozen=True)
class Estimate:
    """Work that is left for one job.

    Attributes:
        label: Label of the detector.
        category: Label of the product.
        seed: Seed of the job.
        cells: Number of cells that are not measured yet.
        seconds: Estimated time in seconds, with the fit.
    """

    label: str
    category: str
    seed: int
    cells: int
    seconds: float


def estimates(jobs: Iterable[Job], store: BenchStore) -> tuple[Estimate, ...]:
    """Estimate the work that is left for each job.

    If there are results of the same detector and test, their times are used, otherwise rough guesses. Either
    depends on the machine, its load and the number of threads.

    Args:
        jobs: Jobs of the grid.
        store: Where the results are; there may be none yet.

    Returns:
        One estimate per job that has cells to measure.
    """
    jobs = tuple(jobs)
    measured: dict[tuple[str, str | None, str | None], list[float]] = {}
    fits: dict[str, list[float]] = {}
    done = set()
    for cell in read_cells(store, (task.cell for job in jobs for task in job.tasks)).values():
        if cell.done:
            done.add(cell.key)
            measured.setdefault((cell.detector, cell.attack, cell.certificate), []).append(cell.seconds or 0.0)
            fits.setdefault(cell.detector, []).append(cell.fit_seconds or 0.0)
    models = store.beside / "models"
    found, trained = [], {job.model for job in jobs if (models / job.model / CONFIG_NAME).is_file()}
    for job in jobs:
        tasks = [task for task in job.tasks if task.selected and task.cell.key not in done]
        if job.dataset is None or not tasks:
            continue
        seconds = 0.0
        if job.model and job.model not in trained:
            seconds += _training_s(job.training_options or RunOptions())
            trained.add(job.model)
        if job.detector.kind != OURS:
            known = fits.get(job.detector.label)
            seconds += statistics.fmean(known) if known else _typical(job.detector)[0]
        images = sum(record.split == "test" for record in job.dataset.records)
        for task in tasks:
            seen = measured.get((task.cell.detector, task.cell.attack, task.cell.certificate))
            if seen:
                seconds += statistics.fmean(seen)
            else:
                gradient_s = _typical(job.detector)[1] * (job.size_px / _GUESSED_PX) ** 2
                seconds += gradient_s * _gradients(task, images, job.detector)
        found.append(Estimate(job.detector.label, job.category, job.seed, len(tasks), seconds))
    return tuple(found)


def _training_s(options: RunOptions) -> float:
    if options.steps is not None:
        return options.steps * _STEP_S
    return 60 * (DEFAULT_MINUTES if options.minutes is None else options.minutes)


def _typical(entry: DetectorEntry) -> tuple[float, float]:
    """Guess the seconds of a fit, and of one gradient for one image."""
    if entry.kind == OURS:
        return 0.0, _GRADIENT_S
    row = BASELINES.get(entry.kind)
    fit_s, gradient_s = (_OWN_FIT_S, _OWN_GRADIENT_S) if row is None else (row.fit_s, row.gradient_s)
    if entry.inner is not None:
        inner = _typical(entry.inner)
        return fit_s + inner[0], gradient_s + inner[1]
    return fit_s, gradient_s


def _gradients(task: CellTask, images: int, entry: DetectorEntry) -> float:
    """Number of gradient evaluations that take as long as the task."""
    if task.attack is not None:
        return min(images, task.attack.limit or images) * _steps(task.attack, entry)
    if task.certificate is not None:
        calls = _BOUNDS if task.certificate.norm == "linf" else task.certificate.n_samples  # linf has exact bounds only
        return min(images, task.certificate.limit or images) * calls * _JUDGE
    return images * _JUDGE


def _steps(options: AttackOptions, entry: DetectorEntry) -> int:
    if options.attack != "suite":
        return (options.steps or 100) * options.restarts * options.eot
    row = BASELINES.get(entry.kind)
    part = SurrogateLoss(lambda images, generator: images.flatten(1).sum(1), "part")
    parts = {f"part {number}": part for number in range(0 if row is None else row.parts)}
    # Attacks for noisy gradients are left out, since noise shows only once a detector is fitted.
    members = [member for member in suite_attacks(options.budget, parts) if not member.if_noisy]
    return sum(member.steps * member.restarts * member.eot for member in members)
