"""Split-conformal thresholds: a threshold that keeps a promised false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from advrad.data.arrays import image_batches
from advrad.data.framing import as_framing
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.splits import normals_needed, rate_in_reach
from advrad.detectors.config import Calibration
from advrad.detectors.saved import framing_of
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from advrad.data.arrays import ImageInput
    from advrad.detectors.saved import SupportsPrediction


def conformal_threshold(scores: Sequence[float], false_alarm_rate: float = 0.05) -> float:
    """Compute a threshold that a new normal image exceeds with at most a given probability.

    Guarantee: it holds for images that are exchangeable with the calibration images, on average over calibration sets,
    for any score. It says nothing about defects.

    Args:
        scores: Scores of normal calibration images that were used for nothing else.
        false_alarm_rate: Promised false-alarm rate alpha, in (0, 1).

    Returns:
        The ``ceil((n + 1) (1 - alpha))``-th smallest score; the verdict is defective where score > threshold.

    Raises:
        ConfigError: There are too few scores for the rate, or a score is not a finite number.

    Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (split or inductive conformal prediction).

    Example:
        >>> conformal_threshold([float(value) for value in range(100)], false_alarm_rate=0.05)
        95.0
    """
    needed = max(1, normals_needed(false_alarm_rate))
    if len(scores) < needed:
        raise ConfigError(
            f"needs {needed} calibration images, {_there_are(len(scores))}",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    if not all(math.isfinite(score) for score in scores):
        raise ConfigError("calibration: a score is not a finite number; train again")
    rank = max(1, math.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9))
    return sorted(scores)[rank - 1]


def _there_are(count: int) -> str:
    """How many calibration images there are, and what to do about too few."""
    if not count:
        return "there are none; give normal images that were used for nothing else"
    return (
        f"there {'is' if count == 1 else 'are'} {count}; give more normal images, or accept a rate of"
        f" {rate_in_reach(count):g} or more"
    )


def calibration_of(
    detector: SupportsPrediction,
    normals: ImageInput,
    false_alarm_rate: float,
    source: dict[str, Any] | None = None,
) -> Calibration:
    """Compute a detector's threshold from normal images that were used for nothing else.

    Args:
        detector: Detector with anomaly maps.
        normals: Normal images: batches of tensors, (b, 3, h, w) each, or whatever
            :meth:`advrad.detectors.saved.SavedMixin.predict` takes.
        false_alarm_rate: Largest share of normal images that may be called anomalous, between 0 and 1.
        source: Description of the images, stored with the threshold.

    Raises:
        ConfigError: There are too few images for the rate.
        DataError: An image has another shape or type, or values that are not finite or outside [0, 1].
    """
    normals_needed(false_alarm_rate)  # refuses a rate that is out of range before anything is scored
    scores: list[float] = []
    maxima: list[float] = []
    framing, pictures = as_framing(framing_of(detector) or detector.image_size_px), []
    for batch in image_batches(normals, framing):
        pictures += [picture_statistics(image) for image in framing.apply(batch.pixels)]
        output = detector.predict_batch(batch.pixels)
        scores += output.scores.tolist()
        if output.anomaly_maps is not None:
            maxima += output.anomaly_maps.amax((1, 2, 3)).tolist()
    known = PictureReference.of(pictures) if pictures else None
    return calibration_from(scores, maxima, false_alarm_rate, source, known)


def calibration_from(
    scores: Sequence[float],
    maxima: Sequence[float],
    false_alarm_rate: float,
    source: dict[str, Any] | None = None,
    pictures: PictureReference | None = None,
) -> Calibration:
    """Compute a threshold from scores of normal images, and the values between which heat maps glow.

    Args:
        scores: Scores of the images.
        maxima: Largest value of each image's anomaly map.
        false_alarm_rate: Largest share of normal images that may be called anomalous, between 0 and 1.
        source: Description of the images, stored with the threshold.
        pictures: Brightness and sharpness of the images; None if they are not known.

    Raises:
        ConfigError: There are too few images for the rate.

    Example:
        >>> calibration_from([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.25).threshold
        3.0
    """
    return Calibration(
        threshold=conformal_threshold(scores, false_alarm_rate),
        false_alarm_rate=false_alarm_rate,
        n=len(scores),
        heat_low=float(np.median(maxima)),
        heat_high=conformal_threshold(maxima, false_alarm_rate) + 1e-6,
        source=source or {},
        scores=tuple(sorted(float(score) for score in scores)),
        picture_statistics=pictures,
    )
