"""Runs one job of a bench: fits its detector and measures its cells."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from advrad.attacks import pipeline as attacks
from advrad.attacks.evaluation import ImageSet
from advrad.baselines.registry import BASELINES
from advrad.benchmark.cells import Cell, Figures, Machine, Reason
from advrad.benchmark.fitting import Fitter, label_of, records_of
from advrad.benchmark.grid import DetectorEntry
from advrad.benchmark.jobs import CellTask, Job
from advrad.certificates import pipeline as certificates
from advrad.certificates.lipschitz import certified_auroc, certified_auroc_interval
from advrad.data.loading import load_images, load_masks
from advrad.detectors.base import AnomalyDetector, SupportsScoreBounds
from advrad.detectors.direction import doubt_scores
from advrad.detectors.loading import LoadedDetector
from advrad.detectors.probing import judge_images
from advrad.errors import AdvradError, OutputError
from advrad.inference.figures import compute_figures, share_of
from advrad.utils.environment import code_digest, versions
from advrad.utils.progress import ProgressReporter
from advrad.utils.radii import Norm
from advrad.utils.seeding import seed_of

_NONE = Figures()


@dataclass(frozen=True)
class Measured:
    """A cell as the process that measured it hands it on.

    Attributes:
        cell: The finished cell, successful or failed.
        rows: The scores of its images, as lines of JSON; None if it failed.
        notes: Messages for the user since the cell before.
    """

    cell: Cell
    rows: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class JobRunner:
    """Runs the jobs of a grid.

    Attributes:
        place: Folder for ``models/``, the trained detectors, and ``work/``, what an interrupted test has so far.
        grid: Path of the grid file.
        size_px: Side in pixels of the images that all detectors are given.
        progress: Receives the progress.
        inner: Labels of detectors that others wrap.
    """

    place: Path
    grid: Path
    size_px: int
    progress: ProgressReporter
    inner: frozenset[str] = frozenset()
    _fitter: Fitter | None = field(default=None, init=False)
    _fitter_for: tuple[str, int] = field(default=("", 0), init=False)

    def measure(self, job: Job) -> Iterator[Measured]:
        """Fit the detector of a job and measure its cells.

        Args:
            job: The job, with the cells to measure.

        Yields:
            Finished cells, successful or failed.

        Raises:
            OutputError: The folder cannot be written to.
        """
        began = time.perf_counter()
        try:
            detector, fit_s = self._fitter_of(job).fit(job)
        except OutputError:
            raise
        except Exception as error:  # a user-defined detector may raise anything; the other cells must go on
            for task in job.tasks:
                yield Measured(make_cell(job, task, time.perf_counter() - began, error=error))
            return
        for task in job.tasks:
            began = time.perf_counter()
            self.progress.stage(f"{label_of(job)}: {task.cell.attack or task.cell.certificate or 'clean'}")
            work = self.place / "work" / f"{task.cell.key}-{detector.identity[:8]}"
            try:
                figures, rows = self._figures(job, task, detector, work)
            except OutputError:
                raise
            except Exception as error:
                yield Measured(make_cell(job, task, time.perf_counter() - began, error=error, fit_s=fit_s))
            else:
                seconds = time.perf_counter() - began
                yield Measured(make_cell(job, task, seconds, figures=figures, fit_s=fit_s), rows)
                # The rows are handed on; maps and files of single images were needed only after an interruption.
                shutil.rmtree(work, ignore_errors=True)

    def _fitter_of(self, job: Job) -> Fitter:
        """The fitter of the job's category and seed; what it keeps is dropped when either changes."""
        if self._fitter is None or self._fitter_for != (job.category, job.seed):
            self._fitter = Fitter(self.place, self.grid, self.size_px, self.progress, self.inner)
            self._fitter_for = (job.category, job.seed)
        return self._fitter

    # --- measuring ---

    def _figures(self, job: Job, task: CellTask, detector: LoadedDetector, work: Path) -> tuple[Figures, str]:
        """The figures of a cell, and the scores of its images as lines of JSON."""
        if task.attack is not None:
            attack_job = attacks.prepare(detector, job.data, task.attack)
            figures = Figures.of(attacks.run_attack(attack_job, task.attack, work, progress=self.progress))
            figures = _with_certified(figures, detector.detector, attack_job.images)
        elif task.certificate is not None:
            certification = certificates.prepare(detector, job.data, task.certificate, work)
            figures = Figures.of(certificates.run_job(certification, progress=self.progress))
        else:
            return self._clean(job, detector)
        return figures, (work / "rows.jsonl").read_text(encoding="utf-8")

    def _clean(self, job: Job, loaded: LoadedDetector) -> tuple[Figures, str]:
        """Measure the figures on all test images without attack."""
        stack = load_images(records_of(job, "test"), self.size_px)
        masks, known = load_masks(stack.records, self.size_px)
        detector = loaded.detector
        seed = seed_of(job.seed, "score") if detector.noise_seed is None else detector.noise_seed
        scores, maps, verdicts = [], [], []
        for index in range(len(stack)):
            name = f"{stack.records[index].defect}/{stack.records[index].path.name}"
            score, drawn, verdict = judge_images(detector, stack.batch([index]), seed, [name])
            scores.append(score)
            verdicts += [] if verdict is None else [verdict]
            if drawn is not None and drawn.shape[1:] == masks.shape[1:]:
                maps.append(drawn)
            self.progress.update(index + 1, len(stack))
        pixels = (masks[known], np.concatenate(maps)[known]) if len(maps) == len(stack) else None
        labels = np.array([record.label for record in stack.records], dtype=np.int64)
        defects = tuple(record.defect for record in stack.records)
        values = np.concatenate(scores)
        figures = compute_figures(
            labels,
            values,
            defects,
            detector.threshold,
            defective=np.concatenate(verdicts) if verdicts else None,
            pixels=pixels,
            seed=job.seed,
        )
        rows = (
            {"name": f"{record.defect}/{record.path.name}", "label": record.label, "score": value}
            for record, value in zip(stack.records, values.tolist(), strict=True)
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        doubt = doubt_scores(labels, values, from_folder=False)
        flags = () if doubt is None else (Reason(name=doubt.name, words=doubt.words),)
        return Figures.of(figures).model_copy(update={"flags": flags}), lines


def make_cell(
    job: Job,
    task: CellTask,
    seconds: float,
    *,
    figures: Figures = _NONE,
    error: Exception | None = None,
    fit_s: float | None = None,
) -> Cell:
    """Put together what is stored of a finished cell.

    Args:
        job: Its job.
        task: The cell.
        seconds: Time that it took.
        figures: What was measured.
        error: Why it failed; None if it did not.
        fit_s: Time of the fit in seconds; None if that failed.
    """
    return Cell(
        **task.cell.model_dump(),
        status="done" if error is None else "failed",
        error=None if error is None else _error_text(error),
        figures=figures,
        options=job.detector.fingerprint["options"]
        | ({} if job.detector.inner is None else {"inner": job.detector.inner.label}),
        versions=_versions(job.detector),
        machine=machine(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 2),
        fit_seconds=None if fit_s is None else round(fit_s, 2),
        gradients=figures.gradients,
        code=code_digest(),
    )


def _with_certified(figures: Figures, detector: AnomalyDetector, images: ImageSet) -> Figures:
    """Add what exact bounds certify at the attack's radius, on the attacked images, if the detector has bounds."""
    if not isinstance(detector, SupportsScoreBounds) or figures.eps is None:
        return figures
    norm: Norm = "linf" if figures.norm == "linf" else "l2"
    bounds = [detector.score_bounds(image[None], figures.eps, norm) for image in images.images]
    lower, upper = (np.array([float(getattr(part, side)) for part in bounds]) for side in ("lower", "upper"))
    certain = None if detector.threshold is None else lower > detector.threshold
    return figures.model_copy(
        update={
            "certified_at_eps": certified_auroc(images.labels, lower, upper),
            "certified_at_eps_ci": certified_auroc_interval(images.labels, lower, upper, seed=0),
            "found_at_eps": share_of(certain, images.labels == 1),
        }
    )


def _error_text(error: Exception) -> str:
    """An error on one line, with its type unless it was raised on purpose."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AdvradError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _versions(entry: DetectorEntry) -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found = versions()
    part: DetectorEntry | None = entry
    while part is not None:
        for package in BASELINES[part.kind].packages if part.kind in BASELINES else ():
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "missing"
        part = part.inner
    return found


@cache
def machine() -> Machine:
    """Describe the machine of this process."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        memory = 0.0
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Machine(processor=processor, cores=os.cpu_count(), memory_gib=round(memory, 1) or None, gpu=gpu)
