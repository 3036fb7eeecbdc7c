"""One job of a bench: a detector is fitted, and every cell that rests on it is measured."""

from __future__ import annotations

import hashlib
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
from typing import Any

import numpy as np
import torch

import advrad
from advrad.attacks import pipeline as audits
from advrad.attacks.evaluation import scored
from advrad.baselines.base import FitContext
from advrad.baselines.registry import BASELINES
from advrad.benchmark.cells import Cell, Figures, Machine
from advrad.benchmark.grid import OURS, CellTask, DetectorEntry, Job, UserDetectorOptions
from advrad.certificates import pipeline as certificates
from advrad.data.loading import ImageStack, load_images, load_masks
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.loading import LoadedDetector, load_detector
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector
from advrad.errors import AdvradError, ConfigError, DataError, OutputError
from advrad.inference.evaluation import measure
from advrad.training import run as runs
from advrad.training.options import RunOptions
from advrad.training.plan import plan_path
from advrad.utils.environment import versions
from advrad.utils.files import make_folder, write_json, write_text
from advrad.utils.imports import load_name
from advrad.utils.locks import lease
from advrad.utils.progress import ProgressReporter
from advrad.utils.seeding import seed_of

_NONE = Figures()


class Locked(Exception):
    """Another process trains what this job needs."""


@dataclass(eq=False)
class JobRunner:
    """A bench folder at work, and what this process keeps between jobs of one category and seed.

    Attributes:
        folder: of the results.
        grid: of the grid's file, which files of one's own are named from.
        size_px: side at which all detectors are given the images.
        progress: Receives the progress.
        inner: labels of detectors that others stand before; once fitted, they are kept for those.
    """

    folder: Path
    grid: Path
    size_px: int
    progress: ProgressReporter
    inner: frozenset[str] = frozenset()
    _kept: dict[str, Any] = field(default_factory=dict)
    _kept_for: tuple[str, int] = ("", 0)

    def measure(self, job: Job, tasks: tuple[CellTask, ...]) -> Iterator[Cell]:
        """Fit the job's detector, and measure cells; each is written as it comes.

        Args:
            job: see there.
            tasks: those of its cells that are wanted.

        Yields:
            The cells, those that failed among them.

        Raises:
            Busy: another process trains what it needs; nothing was measured.
            OutputError: a result cannot be written.
        """
        if self._kept_for != (job.category, job.seed):
            self._kept, self._kept_for = {}, (job.category, job.seed)
        began = time.perf_counter()
        try:
            accused, fit_s = self._accused(job)
        except (Locked, OutputError):
            raise
        except Exception as error:  # whatever somebody's detector raises: the other cells go on
            for task in tasks:
                yield self._write(job, task, began, error=error)
            return
        for task in tasks:
            began = time.perf_counter()
            self.progress.stage(f"{_label(job)}: {task.place.attack or task.place.certificate or 'clean'}")
            try:
                figures = self._figures(job, task, accused)
            except OutputError:
                raise
            except Exception as error:
                yield self._write(job, task, began, error=error, fit_s=fit_s)
            else:
                yield self._write(job, task, began, figures=figures, fit_s=fit_s)

    # --- fitting ---

    def _accused(self, job: Job) -> tuple[LoadedDetector, float]:
        """The fitted detector, and the seconds that this took, now or when it was trained."""
        began = time.perf_counter()
        detector = self._fitted(job, job.detector)
        fit_s = time.perf_counter() - began
        if job.detector.kind == OURS:
            trained_s = self._trained(job).detector_config.training.seconds
            fit_s = fit_s if trained_s is None else trained_s
        # A detector that is fitted again, on another machine perhaps, may come out another: the images tell.
        probe = self._images(job, "test", 4).batch(slice(None))
        said, _ = scored(detector, probe, seed_of(job.seed, "probe"))
        identity = hashlib.sha256(f"{job.name} {said.tobytes().hex()}".encode()).hexdigest()
        return LoadedDetector(detector, identity, None), fit_s

    def _fitted(self, job: Job, entry: DetectorEntry) -> AnomalyDetector:
        """A detector that learned from the job's images; one that others stand before is fitted once for all."""
        if entry.label in self._kept:
            held: AnomalyDetector = self._kept[entry.label]
            return held
        context = FitContext(
            self._images(job, "train"),
            job.seed,
            diffusion=(lambda: self._trained(job)) if entry.trained is not None else None,
            progress=self.progress,
        )
        found = self._fit(job, entry, context)
        if entry.label in self.inner:
            self._kept[entry.label] = found
        return found

    def _fit(self, job: Job, entry: DetectorEntry, context: FitContext) -> AnomalyDetector:
        if entry.trained is not None:
            self._trained(job)  # or be told at once that another process is at it
        self.progress.stage(f"{_label(job)}: fitting" + ("" if entry is job.detector else f" {entry.label}"))
        if entry.kind == OURS:
            return WhiteBoxAdvRAD(self._trained(job))
        if isinstance(entry.options, UserDetectorOptions):
            function = load_name(str(self.grid.parent / entry.kind))
            return as_detector(function(context, **entry.options.arguments))
        row = BASELINES[entry.kind]
        if not row.wraps_detector:
            return row.fit(context, entry.options)
        judge = entry.inner
        assert judge is not None

        def inner(taught: FitContext) -> AnomalyDetector:
            """The detector behind, fitted on what the one before it gives it to learn from."""
            if taught is context:
                return self._fitted(job, judge)
            if judge.kind == OURS:
                raise ConfigError(f"{entry.label}: its inner detector learns from images as given only")
            return self._fit(job, judge, taught)

        return row.fit(context, entry.options, inner=inner)

    def _trained(self, job: Job) -> AdvRAD:
        """Our own detector, trained once for the whole folder; kept and resumable there as any run."""
        if job.model in self._kept:
            held: AdvRAD = self._kept[job.model]
            return held
        place = self.folder / "models" / job.model
        if not (place / CONFIG_NAME).is_file():
            trained = job.detector if job.detector.kind == OURS else job.detector.trained
            assert trained is not None and isinstance(trained.options, RunOptions)
            with lease(self.folder / "claims", f"model-{job.model}") as mine:
                if not mine:
                    raise Locked
                if not (place / CONFIG_NAME).is_file():
                    where = {"layout": job.product.layout, "category": job.product.category}
                    asked = {"seed": job.seed, "data": trained.options.data.model_copy(update=where)}
                    options = trained.options.model_copy(update=asked)
                    make_folder(place.parent)
                    resume = plan_path(place).is_file()
                    runs.train(job.data, place, options, resume=resume, progress=self.progress)
        self._kept[job.model] = load_detector(place)
        detector: AdvRAD = self._kept[job.model]
        return detector

    # --- measuring ---

    def _images(self, job: Job, split: str, count: int | None = None) -> ImageStack:
        assert job.dataset is not None
        records = [record for record in job.dataset.records if record.split == split][:count]
        if not records:
            raise DataError(f"{job.data}: has no {split} images")
        return load_images(records, self.size_px)

    def _figures(self, job: Job, task: CellTask, accused: LoadedDetector) -> Figures:
        if task.attack is None and task.certificate is None:
            found = self._clean(job, accused)
        else:
            found = self._tested(job, task, accused)
        known = set(Figures.model_fields)
        values = {name: value for name, value in found.items() if name in known and value is not None}
        return Figures.parse(values, task.place.key)

    def _tested(self, job: Job, task: CellTask, accused: LoadedDetector) -> dict[str, Any]:
        """Figures under an attack, or of a certificate."""
        work = self.folder / "work" / f"{task.place.key}-{accused.identity[:8]}"
        if task.attack is not None:
            case = audits.prepare(accused, job.data, task.attack)
            found = audits.attack(case, task.attack, work, progress=self.progress)
        else:
            assert task.certificate is not None
            proof = certificates.prepare(accused, job.data, task.certificate, work)
            found = certificates.certify(proof, progress=self.progress)
        # The rows say all that anybody may ask later; maps and single files were for the case of an interruption.
        rows = (work / "rows.jsonl").read_text(encoding="utf-8")
        write_text(make_folder(self.folder / "rows") / f"{task.place.key}.jsonl", rows)
        shutil.rmtree(work, ignore_errors=True)
        return found

    def _clean(self, job: Job, accused: LoadedDetector) -> dict[str, Any]:
        """Standard figures on all test images."""
        stack = self._images(job, "test")
        masks, known = load_masks(stack.records, self.size_px)
        seed = accused.detector.noise_seed
        seed = seed_of(job.seed, "score") if seed is None else seed
        scores, maps = [], []
        for index in range(len(stack)):
            score, drawn = scored(accused.detector, stack.batch([index]), seed)
            scores.append(score)
            maps.append(drawn)
            self.progress.update(index + 1, len(stack))
        shown = [part for part in maps if part is not None and part.shape[1:] == masks.shape[1:]]
        drawn = np.concatenate(shown) if len(shown) == len(stack) else np.zeros(masks.shape, np.float32)
        known &= len(shown) == len(stack)
        labels = np.array([record.label for record in stack.records], dtype=np.int64)
        defects = tuple(record.defect for record in stack.records)
        values = np.concatenate(scores)
        figures = measure(labels, values, defects, masks, drawn, known, accused.detector.threshold, job.seed)
        rows = (
            {"name": f"{record.defect}/{record.path.name}", "label": record.label, "score": value}
            for record, value in zip(stack.records, values.tolist(), strict=True)
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(make_folder(self.folder / "rows") / f"{job.tasks[0].place.key}.jsonl", lines)
        return figures

    def _write(
        self,
        job: Job,
        task: CellTask,
        began: float,
        *,
        figures: Figures = _NONE,
        error: Exception | None = None,
        fit_s: float | None = None,
    ) -> Cell:
        cell = Cell(
            **task.place.model_dump(),
            status="done" if error is None else "failed",
            error=None if error is None else _words(error),
            figures=figures,
            options=job.detector.told["options"]
            | ({} if job.detector.inner is None else {"inner": job.detector.inner.label}),
            versions=_versions(job.detector),
            machine=machine(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - began, 2),
            fit_seconds=None if fit_s is None else round(fit_s, 2),
            gradients=figures.gradients,
            code=code_digest(),
        )
        write_json(self.folder / "cells" / f"{cell.key}.json", cell.model_dump(mode="json"))
        return cell


def _label(job: Job) -> str:
    return f"{job.detector.label} on {job.category}" + (f", seed {job.seed}" if job.seed else "")


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AdvradError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _versions(entry: DetectorEntry) -> dict[str, str]:
    """Of what a result depends on."""
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
    """What this process runs on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        memory = 0.0
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Machine(processor=processor, cores=os.cpu_count(), memory_gib=round(memory, 1) or None, gpu=gpu)


@cache
def code_digest() -> str:
    """Of this package's own code: results of different code are told apart."""
    told = hashlib.sha256()
    home = Path(advrad.__file__).parent
    for path in sorted(home.rglob("*.py")):
        told.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return told.hexdigest()[:12]
