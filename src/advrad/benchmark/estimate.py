"""How long a bench will take: from what was measured in its folder, and else from what was measured elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from advrad.attacks.options import AttackOptions
from advrad.attacks.suite import members_of
from advrad.baselines.registry import BASELINES
from advrad.benchmark.grid import OURS, CellTask, DetectorEntry, Job
from advrad.benchmark.run import held_cells
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.training.options import DEFAULT_MINUTES, RunOptions

#: Rough guesses for one core at 256 px, in seconds: of a training step of ours, and of one gradient of its score.
_STEP_S, _GRADIENT_S = 0.6, 0.1
#: A system of one's own is taken for one like these.
_OWN_FIT_S, _OWN_GRADIENT_S = 60.0, 0.05
#: Judging without gradient, as a share of judging with it.
_JUDGE = 0.4


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        label: of the detector.
        category: of the product.
        seed: of everything.
        cells: that are not measured yet.
        seconds: that they will take, the fit included.
    """

    label: str
    category: str
    seed: int
    cells: int
    seconds: float


def estimates(jobs: Iterable[Job], folder: Path) -> tuple[Estimate, ...]:
    """Of every job that has cells to be measured.

    What a cell of the same detector and test took in this folder counts; where there is none, rough guesses do. Both
    hold for a machine, a load and a number of threads: take them for a hint.

    Args:
        jobs: of the grid.
        folder: of the results; may be missing.
    """
    jobs = tuple(jobs)
    measured: dict[tuple[str, str | None, str | None], list[float]] = {}
    fits: dict[str, list[float]] = {}
    done = set()
    for job in jobs:
        for cell in held_cells(folder, job):
            if cell.done:
                done.add(cell.key)
                measured.setdefault((cell.detector, cell.attack, cell.certificate), []).append(cell.seconds or 0.0)
                fits.setdefault(cell.detector, []).append(cell.fit_seconds or 0.0)
    found, trained = [], {job.model for job in jobs if (folder / "models" / job.model / CONFIG_NAME).is_file()}
    for job in jobs:
        tasks = [task for task in job.tasks if task.meant and task.place.key not in done]
        if job.dataset is None or not tasks:
            continue
        seconds = 0.0
        if job.model and job.model not in trained:
            ours = job.detector if job.detector.kind == OURS else job.detector.trained
            assert ours is not None and isinstance(ours.options, RunOptions)
            seconds += _training_s(ours.options)
            trained.add(job.model)
        if job.detector.kind != OURS:
            known = fits.get(job.detector.label)
            seconds += statistics.fmean(known) if known else _typical(job.detector)[0]
        images = sum(record.split == "test" for record in job.dataset.records)
        for task in tasks:
            seen = measured.get((task.place.detector, task.place.attack, task.place.certificate))
            seconds += statistics.fmean(seen) if seen else _typical(job.detector)[1] * _gradients(task, images)
        found.append(Estimate(job.detector.label, job.category, job.seed, len(tasks), seconds))
    return tuple(found)


def _training_s(options: RunOptions) -> float:
    if options.steps is not None:
        return options.steps * _STEP_S
    return 60 * (DEFAULT_MINUTES if options.minutes is None else options.minutes)


def _typical(entry: DetectorEntry) -> tuple[float, float]:
    """Seconds of a fit and of a gradient for one image."""
    if entry.kind == OURS:
        return 0.0, _GRADIENT_S
    row = BASELINES.get(entry.kind)
    fit_s, gradient_s = (_OWN_FIT_S, _OWN_GRADIENT_S) if row is None else (row.fit_s, row.gradient_s)
    if entry.inner is not None:
        inner = _typical(entry.inner)
        return fit_s + inner[0], gradient_s + inner[1]
    return fit_s, gradient_s


def _gradients(task: CellTask, images: int) -> float:
    """As many gradients take as long as the task."""
    if task.attack is not None:
        return min(images, task.attack.limit or images) * _steps(task.attack)
    if task.certificate is not None:
        return min(images, task.certificate.limit or images) * task.certificate.draws * _JUDGE
    return images * _JUDGE


def _steps(options: AttackOptions) -> int:
    if options.attack != "suite":
        return (options.steps or 100) * options.restarts * options.eot
    # Which detectors have noisy gradients shows only once one is there.
    members = [member for member in members_of(options.budget) if not member.if_noisy]
    return sum(member.steps * member.restarts * member.eot for member in members)
