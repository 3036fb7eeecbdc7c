"""New thresholds for a detector with exact bounds, from the normal images that set its first one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advrad.certificates.threshold import robust_threshold_of_bounds
from advrad.data.layouts import find_records
from advrad.data.loading import ImageStack
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.combined import CombinedDetector
from advrad.detectors.config import Calibration, RecordedFigures
from advrad.detectors.conformal import calibration_from, calibration_of, conformal_threshold
from advrad.detectors.tiled import TiledDetector
from advrad.errors import CheckpointError, DataError
from advrad.training.calibration_data import CalibrationData
from advrad.training.closed_form_run import ClosedFormRun
from advrad.training.fit_plan import ClosedFormPlan
from advrad.training.options import CalibrateOptions
from advrad.training.plan import plan_path
from advrad.training.tiled_fit import scored
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import Norm

#: Largest relative difference between a threshold and what the same images give again, on another processor.
SAME = 1e-4


def recalibrate_closed_form(
    detector: ClosedFormDetector,
    folder: Path,
    data: Path,
    options: CalibrateOptions,
    *,
    progress: ProgressReporter = SILENT,
) -> None:
    """Set the thresholds of a closed-form detector again, each image compared with the others.

    Args:
        detector: Detector, which is changed.
        folder: Its model folder.
        data: Folder of the images to which it was fitted.
        options: False-alarm rate, and radius and norm of the threshold under attack.
        progress: Receives the number of images that are finished.

    Raises:
        CheckpointError: The model does not record how it was fitted.
        ConfigError: There are too few images for the rate.
        DataError: The normal images are not those of the fit.
    """

    def scores(images: ImageStack) -> Iterator[tuple[float, float]]:
        for index in detector.config.held_out:
            image, group = images.batch([index]), torch.tensor([index])
            with torch.no_grad():
                yield float(detector.scores(image, exclude=group)), largest_of_map(detector, image, group)

    def upper(image: Tensor, index: int, radius: float) -> Tensor:
        return detector.score_bounds(image, radius, _norm(options), exclude=torch.tensor([index])).upper

    _recalibrate(detector, folder, data, options, progress, scores, upper)


def recalibrate_tiled(
    detector: TiledDetector,
    folder: Path,
    data: Path,
    options: CalibrateOptions,
    *,
    progress: ProgressReporter = SILENT,
) -> None:
    """Set the thresholds of a detector of tiles again, from the images that gave it no tile.

    Args:
        detector: Detector, which is changed.
        folder: Its model folder.
        data: Folder of the images to which it was fitted.
        options: False-alarm rate, and radius and norm of the threshold under attack.
        progress: Receives the number of images that are finished.

    Raises:
        CheckpointError: The model does not record how it was fitted.
        ConfigError: There are too few images for the rate.
        DataError: The normal images are not those of the fit.
    """

    def upper(image: Tensor, index: int, radius: float) -> Tensor:
        return detector.score_bounds(image, radius, _norm(options)).upper

    scores = partial(scored, detector, rows=detector.config.held_out)
    _recalibrate(detector, folder, data, options, progress, scores, upper)


def _recalibrate(
    detector: ClosedFormDetector | TiledDetector,
    folder: Path,
    data: Path,
    options: CalibrateOptions,
    progress: ProgressReporter,
    scores_of: Callable[[ImageStack], Iterable[tuple[float, float]]],
    upper_of: Callable[[Tensor, int, float], Tensor],
) -> None:
    """Set thresholds again from the scores, largest map values and upper bounds of the images that set them before."""
    images = read_same_images(detector, folder, data, progress)
    held = detector.config.held_out
    progress.stage("Calibrating")
    scores, maxima, upper = [], [], []
    for done, (index, (score, largest)) in enumerate(zip(held, scores_of(images), strict=True), start=1):
        scores.append(score)
        maxima.append(largest)
        if options.radius is not None:
            upper.append(float(upper_of(images.batch([index]), index, options.radius)))
        progress.update(done, len(held))
    before = detector.calibration
    _check_same(scores, maxima, before, data)
    rate = options.false_alarm_rate or before.false_alarm_rate
    pictures = PictureReference.of(picture_statistics(images.batch([index])[0]) for index in held)
    calibration = calibration_from(scores, maxima, rate, before.source, pictures)
    _store(detector, calibration, options, upper)


def _check_same(scores: list[float], maxima: list[float], before: Calibration, data: Path) -> None:
    """Refuse images that give another threshold than the model has."""
    again, low = conformal_threshold(scores, before.false_alarm_rate), float(np.median(maxima))
    same = all(
        math.isclose(*pair, rel_tol=SAME, abs_tol=1e-6) for pair in ((again, before.threshold), (low, before.heat_low))
    )
    if before.n != len(scores) or not same:
        raise DataError(
            f"{data}: the normal images are not those of the fit (they give the threshold {again:.6g}, the model has"
            f" {before.threshold:.6g}); name the folder of the fit, or train again"
        )


def recalibrate_held_out(
    detector: ClosedFormDetector | CombinedDetector,
    images: CalibrationData,
    options: CalibrateOptions,
    *,
    progress: ProgressReporter = SILENT,
) -> None:
    """Set the thresholds of a detector with exact bounds again, from images that were used for nothing else.

    Args:
        detector: Detector, which is changed.
        images: Normal images, divided as in training.
        options: False-alarm rate, and radius and norm of the threshold under attack.
        progress: Receives the number of images that are finished.

    Raises:
        ConfigError: There are too few images for the rate.
    """
    before = detector.calibration
    rate = options.false_alarm_rate or before.false_alarm_rate
    calibration = calibration_of(detector, images.calibration_batches(), rate, before.source)
    upper = []
    if options.radius is not None:
        progress.stage("Calibrating")
        count = len(images.calibration)
        for index in range(count):
            image = images.calibration.batch(slice(index, index + 1))
            upper.append(float(detector.score_bounds(image, options.radius, _norm(options)).upper))
            progress.update(index + 1, count)
    _store(detector, calibration, options, upper)


def largest_of_map(detector: ClosedFormDetector, image: Tensor, group: Tensor) -> float:
    """The largest value of the anomaly map of an image that is left out of the memory.

    Args:
        detector: Detector.
        image: Image, (1, 3, s, s).
        group: Its number, (1,) int64.
    """
    members = [member for member in detector.members if isinstance(member, ClosedFormMember)]
    return max(float(member.with_strays(member.scores(image, 0.0, group), image)) for member in members)


def _norm(options: CalibrateOptions) -> Norm:
    return options.norm or "linf"


def _store(
    detector: ClosedFormDetector | CombinedDetector | TiledDetector,
    calibration: Calibration,
    options: CalibrateOptions,
    upper: list[float],
) -> None:
    """Store both thresholds. Figures that were measured with the old ones no longer hold."""
    robust = None
    if options.radius is not None:
        robust = robust_threshold_of_bounds(
            upper,
            false_alarm_rate=calibration.false_alarm_rate,
            radius=options.radius,
            norm=_norm(options),
            source=calibration.source,
        )
    changes = {"calibration": calibration, "robust_calibration": robust, "figures": RecordedFigures()}
    detector.update_config(**changes)


def read_same_images(
    detector: ClosedFormDetector | TiledDetector, folder: Path, data: Path, progress: ProgressReporter
) -> ImageStack:
    """Read the images of a fit, in their order.

    Args:
        detector: Detector that was fitted to them.
        folder: Its model folder.
        data: Folder of the images.
        progress: Receives the progress.

    Raises:
        CheckpointError: The model does not record how it was fitted.
        DataError: The normal images are not those of the fit.
    """
    plan = _plan_of(detector, folder, data)
    run = ClosedFormRun(find_records(data, plan.options.data), plan.options, str(data), plan.leaves_out_copies)
    framing = replace(run.choose_framing(), trained_range=detector.config.training.value_range)
    images = run.read(framing, progress)
    held = detector.config.held_out
    if max(held) >= len(images) or (plan.names and run.names_of(images) != plan.names):
        raise DataError(
            f"{data}: the normal images are not those of the fit ({len(images)} now); a threshold from other images"
            " would not keep its false-alarm rate"
        )
    return images


def _plan_of(detector: ClosedFormDetector | TiledDetector, folder: Path, data: Path) -> ClosedFormPlan:
    """How a detector was fitted; the names of its images are known where the folder still has its plan."""
    training = detector.config.training
    if training.plan is None or not detector.config.held_out:
        raise CheckpointError(
            f"{folder}: does not record how it was fitted, so the images of its threshold are not known; train again"
        )
    names: tuple[str, ...] = ()
    path = plan_path(folder)
    if path.is_file():
        try:
            names = tuple(json.loads(path.read_text(encoding="utf-8"))["names"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: is damaged ({error}); train again in another folder") from None
    values = training.plan.to_dict() | {"data": str(data.resolve()), "names": names}
    values.pop("train", None)
    return ClosedFormPlan.parse(values, str(folder))
