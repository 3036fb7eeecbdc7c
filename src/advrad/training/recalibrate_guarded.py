"""New tests for a guarded detector, from the normal images that set its first ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.threshold import robust_threshold_of_bounds
from advrad.data.loading import ImageStack
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.detectors.config import RecordedFigures
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_tests import divide_slots, make_tests, surprise, usable_ceiling
from advrad.errors import CheckpointError, DataError
from advrad.training.closed_form_members import groups_of
from advrad.training.guard_parts import left_out
from advrad.training.options import CalibrateOptions
from advrad.training.recalibrate_bounds import SAME, largest_of_map, read_same_images
from advrad.utils.progress import SILENT, ProgressReporter

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PartB:
    """What the halves say about the images that set their tests.

    Attributes:
        scores: Scores of n images by half, that of the memory first.
        heights: Largest values of their maps by half; empty for a half without maps.
    """

    scores: tuple[Floats, ...]
    heights: tuple[Floats, ...]


def new_slots(detector: GuardedDetector, false_alarm_rate: float | None) -> tuple[int, ...]:
    """Divide the slots of a rate between the halves: what is left beyond one each, as in the present tests.

    Args:
        detector: Guarded detector.
        false_alarm_rate: Rate of all halves together, in (0, 1); None for the present slots.

    Raises:
        ConfigError: There are too few images for the rate.
    """
    present = tuple(test.slots for test in detector.tests)
    if false_alarm_rate is None:
        return present
    return divide_slots(detector.calibration.n, false_alarm_rate, [slots - 1 for slots in present])


def recalibrate_guarded(
    detector: GuardedDetector,
    folder: Path,
    data: Path,
    options: CalibrateOptions,
    *,
    progress: ProgressReporter = SILENT,
) -> None:
    """Set the tests of a guarded detector again, and the threshold of its score under attack.

    Args:
        detector: Detector that ``advrad train --features`` made, which is changed.
        folder: Its model folder.
        data: Folder of the images to which it was fitted.
        options: False-alarm rate, and radius and norm of the threshold under attack.
        progress: Receives the number of images that are finished.

    Raises:
        CheckpointError: The model does not record how it was fitted.
        ConfigError: There are too few images for the rate.
        DataError: The normal images are not those of the fit.
    """
    if detector.config.training.plan is None:
        raise CheckpointError(
            f"{folder}: was made by advrad.guard, which keeps no plan, so the normal images of its thresholds are not"
            " known; guard it again with another false_alarm_rate, or call its calibrate with normal images"
        )
    images = read_same_images(detector.memory, folder, data, progress)
    progress.stage("Calibrating")
    slots, before = new_slots(detector, options.false_alarm_rate), detector.calibration
    leaves_one_out = not detector.config.joint
    found = _score(detector, images, leaves_one_out=leaves_one_out, progress=progress)
    again = make_tests(
        found.scores, found.heights, [test.slots for test in detector.tests], leaves_one_out=leaves_one_out
    )
    _check_same(detector, again, data)
    tests = make_tests(found.scores, found.heights, slots, leaves_one_out=leaves_one_out)
    ceiling = moved_ceiling(detector.config.ceiling, detector.tests[0], tests[0])
    rate = options.false_alarm_rate or before.false_alarm_rate
    pictures = PictureReference.of(
        picture_statistics(images.batch([index])[0]) for index in detector.memory.config.held_out
    )
    detector.set_tests(tests, rate, joint=detector.config.joint, source=before.source, pictures=pictures)
    detector.update_config(ceiling=ceiling, robust_calibration=None, figures=RecordedFigures())
    if options.radius is not None:
        _set_robust(detector, images, options, progress)


def moved_ceiling(ceiling: float, before: HalfTest, after: HalfTest) -> float:
    """The ceiling that leaves the other halves as much of the score beside a new test of the memory.

    A ceiling of at most 0 stands for a score of the memory, which stays the same. One above 0 says that every half that
    speaks counts, and stays.

    Args:
        ceiling: Ceiling beside the test before.
        before: Test of the memory before.
        after: Test of the memory after.

    Example:
        >>> before = HalfTest(threshold=2.0, false_alarm_rate=0.1, n=19, slope=1.0)
        >>> moved_ceiling(-1.0, before, before.model_copy(update={"threshold": 2.5}))
        -1.5
    """
    if ceiling > 0:
        return ceiling
    score = torch.tensor(before.threshold + ceiling / before.slope, dtype=torch.float64)
    return usable_ceiling(min(0.0, float(surprise(score, after))))


def _score(detector: GuardedDetector, images: ImageStack, *, leaves_one_out: bool, progress: ProgressReporter) -> PartB:
    """Score part B as the fit does: images that a half holds are left out of it one by one."""
    held = detector.memory.config.held_out
    scores: list[Tensor] = []
    heights: list[Sequence[Tensor]] = []
    for done, index in enumerate(held, start=1):
        batch_scores, batch_heights = detector.score_halves(images.batch([index]))
        scores.append(batch_scores)
        heights.append(batch_heights)
        progress.update(done, len(held))
    by_half = list(torch.cat(scores).numpy().T)
    maxima = [torch.cat(columns).numpy() for columns in zip(*heights, strict=True)]
    if leaves_one_out:
        by_half[0], maxima[0] = _left_out_of_memory(detector, images, held)
        for place, half in enumerate(detector.others.values(), start=1):
            if isinstance(half, FeatureDetector) and half.config.leaves_one_out:
                by_half[place] = maxima[place] = _left_out_of_features(half, images, held)
    return PartB(tuple(by_half), tuple(maxima))


def _left_out_of_memory(detector: GuardedDetector, images: ImageStack, held: Sequence[int]) -> tuple[Floats, Floats]:
    """Scores of the memory, and largest values of its maps, of images that are left out of it."""
    scores, heights = [], []
    for index in held:
        image, group = images.batch([index]), torch.tensor([index])
        with torch.no_grad():
            scores.append(float(detector.memory.scores(image, exclude=group)))
            heights.append(largest_of_map(detector.memory, image, group))
    return np.array(scores), np.array(heights)


def _left_out_of_features(half: FeatureDetector, images: ImageStack, held: Sequence[int]) -> Floats:
    """Scores of images that are left out of the features' bank, which holds each different image once."""
    different = sorted(set(groups_of(images.batch(range(len(images)))).tolist()))
    scorer = left_out(half, different)
    with torch.no_grad():
        return np.array([float(scorer(images.batch([index]), torch.tensor([index]))) for index in held])


def _check_same(detector: GuardedDetector, again: Sequence[HalfTest], data: Path) -> None:
    """Refuse images that give other thresholds than the model has."""
    for name, found, stored in zip(detector.config.names, again, detector.tests, strict=True):
        if found.n != stored.n or not math.isclose(found.threshold, stored.threshold, rel_tol=SAME, abs_tol=1e-6):
            raise DataError(
                f"{data}: the normal images are not those of the fit (they give {name} the threshold"
                f" {found.threshold:.6g}, the model has {stored.threshold:.6g}); name the folder of the fit, or train"
                " again"
            )


def _set_robust(
    detector: GuardedDetector, images: ImageStack, options: CalibrateOptions, progress: ProgressReporter
) -> None:
    """Set the threshold of the score that keeps the whole rate under attack: at it, the memory alone counts."""
    held, norm = detector.memory.config.held_out, options.norm or "linf"
    radius, calibration = options.radius or 0.0, detector.calibration
    progress.stage("Bounding scores")
    upper = []
    for done, index in enumerate(held, start=1):
        bounds = detector.memory.score_bounds(images.batch([index]), radius, norm, exclude=torch.tensor([index]))
        upper.append(max(float(surprise(bounds.upper, detector.tests[0])), detector.config.ceiling))
        progress.update(done, len(held))
    robust = robust_threshold_of_bounds(
        upper,
        false_alarm_rate=calibration.false_alarm_rate,
        radius=radius,
        norm=norm,
        source=calibration.source,
    )
    detector.update_config(robust_calibration=robust)
