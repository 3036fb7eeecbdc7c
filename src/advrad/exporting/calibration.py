"""The threshold of an export, computed anew from the scores of the exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.splits import normals_needed
from advrad.denoisers.memory import MemoryDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import Calibration
from advrad.detectors.conformal import calibration_from
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_tests import divide_slots, make_tests
from advrad.detectors.saved import SavedDetector
from advrad.errors import ConfigError
from advrad.exporting.comparing import CalibrationFiles, Scored
from advrad.training.recalibrate_guarded import moved_ceiling
from advrad.utils.seeding import numpy_generator_for

Floats = npt.NDArray[np.float64]

#: Fewest and most images whose values set the ranges of int8.
FEWEST_FOR_INT8, MOST_FOR_INT8 = 8, 64


@dataclass(frozen=True)
class Decision:
    """The threshold that scores of the calibration images give.

    Attributes:
        calibration: The threshold, and how it was set.
        tests: Tests of the halves of a guarded detector; empty for another.
        ceiling: Ceiling of a guarded detector; 0 for another.
    """

    calibration: Calibration
    tests: tuple[HalfTest, ...] = ()
    ceiling: float = 0.0

    @property
    def thresholds(self) -> Floats:
        """What scores are compared with, (k,)."""
        return np.array([test.threshold for test in self.tests] or [self.calibration.threshold])

    def is_defective(self, compared: Floats) -> bool:
        """The verdict about an image.

        Args:
            compared: Its score, or the scores of the halves, (k,).
        """
        return bool((compared > self.thresholds).any())

    def store(self, detector: SavedDetector) -> None:
        """Replace the threshold of a detector.

        Args:
            detector: Detector, which is changed.
        """
        if isinstance(detector, GuardedDetector):
            joint, rate = detector.config.joint, self.calibration.false_alarm_rate
            before = self.calibration
            detector.set_tests(self.tests, rate, joint=joint, source=before.source, pictures=before.picture_statistics)
            detector.update_config(ceiling=self.ceiling)
        else:
            detector.update_config(calibration=self.calibration)  # type: ignore[attr-defined]


def present_decision(detector: SavedDetector) -> Decision:
    """The threshold that a detector has.

    Args:
        detector: Detector with a threshold.
    """
    if isinstance(detector, GuardedDetector):
        return Decision(detector.calibration, detector.tests, detector.config.ceiling)
    return Decision(detector.calibration)


def new_decision(detector: SavedDetector, scored: Sequence[Scored]) -> Decision:
    """The threshold that scores of calibration images give, with the false-alarm rate of the present one.

    Args:
        detector: Detector with a threshold.
        scored: What is said about the images: by the detector, or by an export.

    Raises:
        ConfigError: There are too few images for the rate.
    """
    before, scores = detector.calibration, np.stack([one.compared for one in scored])
    if not isinstance(detector, GuardedDetector):
        maxima = [one.largest for one in scored]
        numbers, rate = scores[:, 0].tolist(), before.false_alarm_rate
        return Decision(calibration_from(numbers, maxima, rate, before.source, before.picture_statistics))
    old = detector.tests
    slots = [test.slots for test in old]
    if len(scored) != before.n:
        slots = list(divide_slots(len(scored), before.false_alarm_rate, [count - 1 for count in slots]))
    made = make_tests(list(scores.T), [()] * len(slots), slots, leaves_one_out=not detector.config.joint)
    # The graph does not give the maps of single halves, so their range stays.
    tests = tuple(
        test.model_copy(update={"heat_low": was.heat_low, "heat_high": was.heat_high})
        for test, was in zip(made, old, strict=True)
    )
    calibration = before.model_copy(update={"n": min(test.n for test in tests)})
    return Decision(calibration, tests, moved_ceiling(detector.config.ceiling, old[0], tests[0]))


def keep_picture_statistics(detector: SavedDetector, files: CalibrationFiles) -> None:
    """Give the calibration of a detector brightness and sharpness of its images, if an earlier version made it without.

    Args:
        detector: Detector with a threshold, which is changed.
        files: Its calibration images.

    Raises:
        ImageError: A file cannot be read.
    """
    before = detector.calibration
    if before.picture_statistics is not None:
        return
    pictures = PictureReference.of(picture_statistics(files.working(row)[0]) for row in range(len(files)))
    kept = before.model_copy(update={"picture_statistics": pictures})
    detector.update_config(calibration=kept)  # type: ignore[attr-defined]


def spread_of_scores(detector: SavedDetector, scored: Sequence[Scored], *, left_out: bool) -> Floats:
    """Standard deviation of normal scores: the unit in which an export may differ.

    Args:
        detector: Detector with a threshold.
        scored: What it says about its calibration images.
        left_out: Whether it holds them: then their scores are as good as one, and those count that set its threshold.

    Returns:
        That of the score and, for a guarded detector, of the scores of its halves, (k,).
    """
    numbers = np.stack([one.numbers for one in scored])
    if not left_out:
        return np.asarray(numbers.std(axis=0))
    if not isinstance(detector, GuardedDetector):
        stored = detector.calibration.scores
        return np.array([np.std(stored)]) if stored else np.asarray(numbers.std(axis=0))
    halves = [float(np.std(test.scores)) for test in detector.tests]
    return np.array([max(test.slope * half for test, half in zip(detector.tests, halves, strict=True)), *halves])


def rows_for_int8(detector: SavedDetector, count: int, *, left_out: bool) -> tuple[int, ...]:
    """Choose the calibration images whose values set the ranges of int8.

    The promise of the threshold needs images from which nothing else was made, so these do not set it, unless the
    threshold stays as it is.

    Args:
        detector: Detector with a threshold.
        count: Number of calibration images.
        left_out: Whether the detector holds them, so that its threshold stays.

    Returns:
        Their positions, rising.

    Raises:
        ConfigError: There are too few images, or the detector has no trained network.
    """
    if not _has_network(detector):
        raise ConfigError(
            "is for trained networks, and this detector has none: with its differences of patches in int8, scores of"
            " normal images moved by more than they differ from each other; choose float32 or bfloat16",
            option="precision",
            value="int8",
        )
    rate = detector.calibration.false_alarm_rate
    tests = len(detector.tests) if isinstance(detector, GuardedDetector) else 1
    kept = 0 if left_out else normals_needed(rate / tests)
    if count < kept + FEWEST_FOR_INT8:
        others = f", and {kept} others that set the threshold at a false-alarm rate of {rate:g}" if kept else ""
        raise ConfigError(
            f"needs {kept + FEWEST_FOR_INT8} calibration images: {FEWEST_FOR_INT8} that set the ranges of values"
            f"{others}; there are {count}: train on more normal images, or choose float32 or bfloat16",
            option="precision",
            value="int8",
        )
    wanted = max(FEWEST_FOR_INT8, min(MOST_FOR_INT8, count // 3, count - kept))
    order = numpy_generator_for(0, "ranges of int8").permutation(count)
    return tuple(sorted(int(row) for row in order[:wanted]))


def _has_network(detector: SavedDetector) -> bool:
    """Whether a trained network is part of a detector."""
    parts = list(detector.modules()) if isinstance(detector, nn.Module) else []
    learned = [part for part in parts if isinstance(part, AdvRAD) and not isinstance(part.denoiser, MemoryDenoiser)]
    return bool(learned) or any(isinstance(part, FeatureDetector) for part in parts)
