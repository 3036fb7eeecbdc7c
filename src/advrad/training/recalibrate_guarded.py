"""New tests for a guarded detector: from the normal images that set its first ones, or from new ones.

``advrad train --features`` records which images those were. :func:`advrad.guard` is given them, and records none; so a
detector that it made gets its tests from normal images that no half was made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.threshold import robust_threshold_of_bounds
from advrad.data.layouts import find_records
from advrad.data.loading import ImageStack
from advrad.data.options import DataOptions
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.trained_images import trained_on
from advrad.detectors.config import RecordedFigures
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_tests import divide_slots, make_tests, surprise, usable_ceiling
from advrad.detectors.saved import seen_by
from advrad.errors import DataError
from advrad.training.closed_form_members import groups_of
from advrad.training.fit_plan import GuardedPlan
from advrad.training.guard_parts import left_out
from advrad.training.normal_images import NormalImages
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
        detector: Detector, which is changed.
        folder: Its model folder.
        data: Folder of the images to which ``advrad train --features`` fitted it; of normal images that were used for
            nothing else if :func:`advrad.guard` made it.
        options: False-alarm rate, and radius and norm of the threshold under attack.
        progress: Receives the number of images that are finished.

    Raises:
        CheckpointError: The model does not record how it was fitted.
        ConfigError: There are too few images for the rate.
        DataError: The normal images are not those of the fit; or a half was made from them.
    """
    if remembers_images(detector):
        _from_same_images(detector, folder, data, options, progress)
    else:
        _from_new_images(detector, data, options, progress)


def remembers_images(detector: GuardedDetector) -> bool:
    """Whether it is recorded which images set the tests: not for a detector that :func:`advrad.guard` made.

    Args:
        detector: Guarded detector.
    """
    plan = detector.config.training.plan  # that of the memory, where advrad.guard made the detector
    return plan is not None and plan.to_dict().get("kind") == GuardedPlan.model_fields["kind"].default


def _from_same_images(
    detector: GuardedDetector, folder: Path, data: Path, options: CalibrateOptions, progress: ProgressReporter
) -> None:
    """Set the tests again from the images that set them before."""
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
    held = detector.memory.config.held_out
    pictures = PictureReference.of(picture_statistics(images.batch([index])[0]) for index in held)
    detector.set_tests(tests, rate, joint=detector.config.joint, source=before.source, pictures=pictures)
    _finish(detector, ceiling, ((images.batch([index]), torch.tensor([index])) for index in held), options, progress)


def _from_new_images(
    detector: GuardedDetector, data: Path, options: CalibrateOptions, progress: ProgressReporter
) -> None:
    """Set the tests from normal images that no half was made from."""
    images = _read_unseen(detector, data, options, progress)
    progress.stage("Calibrating")
    memory, rate = detector.tests[0], options.false_alarm_rate or detector.calibration.false_alarm_rate
    rows = range(len(images))
    detector.calibrate((images.batch([row]) for row in rows), rate, {"data": data.resolve().name})
    ceiling = moved_ceiling(detector.config.ceiling, memory, detector.tests[0])
    _finish(detector, ceiling, ((images.batch([row]), None) for row in rows), options, progress)


def _read_unseen(
    detector: GuardedDetector, data: Path, options: CalibrateOptions, progress: ProgressReporter
) -> ImageStack:
    """Read normal images, each once, of which no half has seen any.

    Raises:
        ConfigError: There are too few for the rate.
        DataError: A half was made from some of them.
    """
    plan = detector.config.training.plan
    recorded = {} if plan is None else plan.to_dict()
    reading = DataOptions.parse({name: recorded[name] for name in DataOptions.model_fields if name in recorded})
    reading = reading.model_copy(update={"layout": "auto", "category": None})
    dataset = find_records(data, reading)
    rate = options.false_alarm_rate or detector.calibration.false_alarm_rate
    records = [record for record in dataset.records if record.split == "train" and record.label == 0]
    framing = replace(detector.framing, trained_range=detector.config.training.value_range)
    source = NormalImages(dataset, reading, rate, tests=len(detector.config.names))
    images = source.read(records, framing, progress)
    if seen := trained_on(images.records, seen_by(detector), images.values):
        raise DataError(
            f"{data}: {len(seen)} of the {len(images)} normal images are images that the model was made from, so its"
            " scores of them say nothing about new ones; give normal images that were used for nothing else"
        )
    return images


def _finish(
    detector: GuardedDetector,
    ceiling: float,
    held: Iterable[tuple[Tensor, Tensor | None]],
    options: CalibrateOptions,
    progress: ProgressReporter,
) -> None:
    """Store the ceiling and the threshold under attack. Figures that were measured with the old tests no longer hold.

    Args:
        detector: Detector with its new tests.
        ceiling: Its new ceiling.
        held: The images that set the tests, (1, 3, s, s) each, and what is left out of the memory for it.
        options: Radius and norm of the threshold under attack.
        progress: Receives the number of images that are finished.
    """
    detector.update_config(ceiling=ceiling, robust_calibration=None, figures=RecordedFigures())
    if options.radius is not None:
        _set_robust(detector, held, options, progress)


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
    detector: GuardedDetector,
    held: Iterable[tuple[Tensor, Tensor | None]],
    options: CalibrateOptions,
    progress: ProgressReporter,
) -> None:
    """Set the threshold of the score that keeps the whole rate under attack: at it, the memory alone counts."""
    radius, norm, calibration = options.radius or 0.0, options.norm or "linf", detector.calibration
    progress.stage("Bounding scores")
    upper = []
    for done, (image, exclude) in enumerate(held, start=1):
        bounds = detector.memory.score_bounds(image, radius, norm, exclude=exclude)
        upper.append(max(float(surprise(bounds.upper, detector.tests[0])), detector.config.ceiling))
        progress.update(done, calibration.n)
    robust = robust_threshold_of_bounds(
        upper,
        false_alarm_rate=calibration.false_alarm_rate,
        radius=radius,
        norm=norm,
        source=calibration.source,
    )
    detector.update_config(robust_calibration=robust)
