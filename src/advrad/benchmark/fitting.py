"""Fits the detectors of a bench, and keeps those that several jobs need."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advrad.baselines.base import FitContext
from advrad.baselines.registry import BASELINES
from advrad.benchmark.grid import OURS, DetectorEntry, UserDetectorOptions
from advrad.benchmark.jobs import Job
from advrad.data.loading import ImageStack, load_images
from advrad.data.records import Record
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.loading import LoadedDetector, load_advrad
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.probing import score_images
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector
from advrad.errors import ConfigError, DataError
from advrad.training.choice import learned_alone
from advrad.training.plan import plan_path
from advrad.training.run import train
from advrad.utils.files import make_folder
from advrad.utils.imports import load_name
from advrad.utils.progress import ProgressReporter
from advrad.utils.seeding import seed_of


@dataclass(eq=False)
class Fitter:
    """Fits the detectors of one category and seed.

    Attributes:
        place: Folder whose ``models/`` holds the trained detectors.
        grid: Path of the grid file; files of user-defined detectors are relative to its folder.
        size_px: Side in pixels of the images that all detectors are given.
        progress: Receives the progress.
        inner: Labels of detectors that others wrap. They are fitted once and kept.
    """

    place: Path
    grid: Path
    size_px: int
    progress: ProgressReporter
    inner: frozenset[str] = frozenset()
    _detectors: dict[str, AnomalyDetector] = field(default_factory=dict)
    _models: dict[str, AdvRAD] = field(default_factory=dict)

    def fit(self, job: Job) -> tuple[LoadedDetector, float]:
        """Fit the detector of a job.

        Args:
            job: The job.

        Returns:
            The detector, and the time of its fit in seconds; for AdvRAD that of its training, whenever that was.
        """
        began = time.perf_counter()
        detector = self._fitted(job, job.detector)
        fit_s = time.perf_counter() - began
        if job.detector.kind == OURS:
            trained_s = self._trained(job).detector_config.training.seconds
            fit_s = fit_s if trained_s is None else trained_s
        # A detector fitted again, perhaps on another machine, can differ slightly; scores of some images identify it.
        examples = load_images(records_of(job, "test")[:4], self.size_px).batch(slice(None))
        scores, _ = score_images(detector, examples, seed_of(job.seed, "probe"))
        identity = hashlib.sha256(f"{job.name} {scores.tobytes().hex()}".encode()).hexdigest()
        return LoadedDetector(detector, identity, None), fit_s

    def _fitted(self, job: Job, entry: DetectorEntry) -> AnomalyDetector:
        """Fit an entry on the job's images as given, or return the one that was kept."""
        if entry.label in self._detectors:
            return self._detectors[entry.label]
        context = FitContext(
            self._training_images(job),
            job.seed,
            diffusion=(lambda: self._trained(job)) if entry.trained is not None else None,
            progress=self.progress,
        )
        detector = self._fit(job, entry, context)
        if entry.label in self.inner:
            self._detectors[entry.label] = detector
        return detector

    def _fit(self, job: Job, entry: DetectorEntry, context: FitContext) -> AnomalyDetector:
        if entry.trained is not None:
            self._trained(job)  # first, so that what is shown of the training comes before the fit
        self.progress.stage(f"{label_of(job)}: fitting" + ("" if entry is job.detector else f" {entry.label}"))
        if entry.kind == OURS:
            return WhiteBoxAdvRAD(self._trained(job))
        if isinstance(entry.options, UserDetectorOptions):
            function = load_name(str(self.grid.parent / entry.kind))
            return as_detector(function(context, **entry.options.arguments))
        fit, inner = BASELINES[entry.kind].fit, entry.inner
        if inner is None:
            return fit(context, entry.options)

        def fit_inner(given: FitContext) -> AnomalyDetector:
            """Fit the inner detector on the images that the outer one gives it."""
            if given is context:
                return self._fitted(job, inner)
            if inner.kind == OURS:
                raise ConfigError(
                    f"{entry.label}: an inner detector of kind {OURS} can only learn from images as given"
                )
            return self._fit(job, inner, given)

        return fit(context, entry.options, inner=fit_inner)

    def _trained(self, job: Job) -> AdvRAD:
        """Load the AdvRAD that a job needs; train it first if that was not done yet."""
        if job.model not in self._models:
            model = self.place / "models" / job.model
            if not (model / CONFIG_NAME).is_file():
                self._train(job, model)
            self._models[job.model] = load_advrad(model)
        return self._models[job.model]

    def _train(self, job: Job, model: Path) -> None:
        options = job.training_options
        if options is None:
            raise ConfigError(f"{job.detector.label}: needs a trained detector, but its grid entry names none")
        where = {"layout": job.product.layout, "category": job.product.category}
        data = options.data.model_copy(update=where)
        options = learned_alone(options).model_copy(update={"seed": job.seed, "data": data})
        make_folder(model.parent)
        train(job.data, model, options, resume=plan_path(model).is_file(), progress=self.progress)

    def _training_images(self, job: Job) -> ImageStack:
        return load_images(records_of(job, "train"), self.size_px)


def records_of(job: Job, split: str) -> Sequence[Record]:
    """Images of a job.

    Args:
        job: The job.
        split: ``train`` or ``test``.

    Raises:
        DataError: There are none.
    """
    records = () if job.dataset is None else job.dataset.records
    found = [record for record in records if record.split == split]
    if not found:
        raise DataError(f"{job.data}: has no {split} images")
    return found


def label_of(job: Job) -> str:
    """Detector, category and seed of a job as text."""
    return f"{job.detector.label} on {job.category}" + (f", seed {job.seed}" if job.seed else "")
