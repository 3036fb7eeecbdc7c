"""A threshold for certified verdicts that keeps its false-alarm rate under attack."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advrad.certificates.options import CONFIDENCE, N_SAMPLES
from advrad.certificates.order_statistics import bounds
from advrad.certificates.sequential import scaled
from advrad.certificates.smoothing import Sampler, check_n_samples, samples_for_bounds
from advrad.data.splits import normals_needed
from advrad.detectors.config import DetectorConfig, RobustCalibration
from advrad.detectors.conformal import conformal_threshold
from advrad.errors import ConfigError
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import Norm


def upper_bounds(
    sampler: Sampler,
    normals: Sequence[Tensor],
    radius: float,
    n_samples: int,
    confidence: float,
    generator: torch.Generator,
    progress: ProgressReporter = SILENT,
) -> list[float]:
    """Bound each image's smoothed score from above, over all perturbations within a radius.

    Args:
        sampler: Sampler of the score.
        normals: Normal images, (c, h, w) each, float in [0, 1].
        radius: Radius of the perturbations, l2, for pixel values in [0, 1] of these images.
        n_samples: Number of noise samples per image.
        confidence: Confidence of each bound, in (0, 1).
        generator: Source of all noise.
        progress: Receives (images done, images in all).

    Returns:
        One bound per image.

    Raises:
        ConfigError: The radius needs more samples.
    """
    found, alpha = [], 1 - confidence
    for index, image in enumerate(normals):
        sides = image.shape[1:]
        check_n_samples(n_samples, samples_for_bounds(sampler, sides, radius, alpha), radius, confidence, sampler)
        lower, upper = sampler.sample(image, (radius,), n_samples, generator)
        shifts = scaled(sampler.shifts(*sides), radius)
        found.append(bounds(lower[:, 0], upper[:, 0], shifts, alpha, sampler.quantile)[1])
        progress.update(index + 1, len(normals))
    return found


def calibration_rate(false_alarm_rate: float, confidence: float) -> float:
    """Compute the rate to calibrate for, so that errors of the bounds are part of the promised rate.

    A perturbed normal image raises a false alarm only if its upper bound exceeds the threshold, if this bound fails, or
    if the lower bound behind the verdict fails.

    Args:
        false_alarm_rate: Promised false-alarm rate, in (0, 1).
        confidence: Confidence of each bound, in (0, 1).

    Returns:
        ``false_alarm_rate - 2 (1 - confidence)``.

    Raises:
        ConfigError: This is not above 0.

    Example:
        >>> round(calibration_rate(0.05, 0.999), 3)
        0.048
    """
    left = false_alarm_rate - 2 * (1 - confidence)
    if left <= 0:
        raise ConfigError(
            f"is used up by a confidence of {confidence:g}; raise either",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    return left


def least_rate(images: int, confidence: float) -> float:
    """Compute the lowest false-alarm rate that can be promised under attack, rounded up to four digits.

    Args:
        images: Number of calibration images.
        confidence: Confidence of each bound, in (0, 1).
    """
    return math.ceil(1e4 * (1 / (images + 1) + 2 * (1 - confidence))) / 1e4


def calibrate_robust_threshold(
    sampler: Sampler,
    normals: Sequence[Tensor],
    *,
    false_alarm_rate: float,
    radius: float,
    n_samples: int = N_SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    source: dict[str, Any] | None = None,
    progress: ProgressReporter = SILENT,
) -> RobustCalibration:
    """Set a threshold for certified verdicts from the upper bounds of normal images.

    The threshold is the split-conformal quantile of the upper bounds.

    Guarantee: let a new normal image be exchangeable with the calibration images, and let an adversary who knows
    everything except the noise of the verdict perturb it by at most ``radius``. The probability that it is certified
    anomalous is at most ``false_alarm_rate``. The proof is in docs/certificates.md, section "A threshold that keeps its
    false-alarm rate under attack".

    Args:
        sampler: Sampler of the score.
        normals: Normal images that were used for nothing else, (c, h, w) each, float in [0, 1].
        false_alarm_rate: Promised false-alarm rate, in (0, 1).
        radius: Radius of the perturbations, l2, for pixel values in [0, 1] of these images.
        n_samples: Number of noise samples per image.
        confidence: Confidence of each bound, in (0, 1); later verdicts need at least this confidence.
        seed: Seed of the noise.
        source: Origin of the images, stored with the threshold.
        progress: Receives (images done, images in all).

    Returns:
        The threshold and how it was set.

    Raises:
        ConfigError: There are too few images for the rate, or the radius needs more samples.

    Example:
        >>> from advrad import wrap
        >>> from advrad.certificates import Percentile
        >>> detector = wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> normals = list(torch.full((20, 3, 8, 8), 0.5))
        >>> sampler = Percentile(detector, sigma=0.2, deterministic=True)
        >>> found = calibrate_robust_threshold(sampler, normals, false_alarm_rate=0.1, radius=0.05)
        >>> found.n, 0.5 < found.threshold < 0.6
        (20, True)
    """
    rate = calibration_rate(false_alarm_rate, confidence)
    needed = normals_needed(rate)
    if len(normals) < needed:
        raise ConfigError(
            f"needs {needed} calibration images under attack, there are {len(normals)}; give more normal images, or"
            f" accept a rate of {least_rate(len(normals), confidence):g} or more",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    generator = torch.Generator().manual_seed(seed)
    values = upper_bounds(sampler, normals, radius, n_samples, confidence, generator, progress)
    return RobustCalibration(
        threshold=conformal_threshold(values, rate),
        false_alarm_rate=false_alarm_rate,
        radius=radius,
        n=len(normals),
        n_samples=n_samples,
        confidence=confidence,
        source=source or {},
    )


def robust_threshold_of_bounds(
    upper: Sequence[float],
    *,
    false_alarm_rate: float,
    radius: float,
    norm: Norm,
    source: dict[str, Any] | None = None,
) -> RobustCalibration:
    """Set a threshold that keeps its false-alarm rate under attack from exact upper bounds of normal images.

    The threshold is the split-conformal quantile of the bounds.

    Guarantee: let a new normal image be exchangeable with the calibration images, and let an adversary who knows
    everything perturb it by at most ``radius``. The probability that its score exceeds the threshold is at most
    ``false_alarm_rate``. The proof is in docs/certificates.md, section "Thresholds".

    Args:
        upper: Upper bounds of the scores of normal images that were used for nothing else, or are left out of the
            memory one by one.
        false_alarm_rate: Promised false-alarm rate, in (0, 1).
        radius: Radius of the perturbations that the bounds allow for.
        norm: Norm of the perturbations.
        source: Origin of the images, stored with the threshold.

    Returns:
        The threshold and how it was set.

    Raises:
        ConfigError: There are too few images for the rate, or too many of them have no bound.

    Example:
        >>> bounds = [value / 10 for value in range(10)]
        >>> robust_threshold_of_bounds(bounds, false_alarm_rate=0.2, radius=2 / 255, norm="linf").threshold
        0.8
    """
    largest = sys.float_info.max  # in place of infinity: an image without a bound
    threshold = conformal_threshold([min(bound, largest) for bound in upper], false_alarm_rate)
    if threshold == largest:
        raise ConfigError(
            "is too large: a perturbation of this size may change where the product is found in too many normal images;"
            " choose a smaller one",
            option="radius",
            value=radius,
        )
    return RobustCalibration(
        threshold=threshold,
        false_alarm_rate=false_alarm_rate,
        radius=radius,
        norm=norm,
        n=len(upper),
        source=source or {},
    )


def certified_threshold(config: DetectorConfig) -> tuple[float | None, list[str]]:
    """Choose the threshold for certified verdicts of AdvRAD's smoothed score.

    Args:
        config: Configuration of the detector.

    Returns:
        The threshold, None if there is none, and notes for the user.
    """
    if config.robust_calibration is not None:
        return config.robust_calibration.threshold, []
    if config.calibration is None:
        return None, []
    return config.calibration.threshold, [
        "the threshold was set for plain scores and promises no false-alarm rate for certified verdicts; set one that"
        " does with 'advrad calibrate RUN DATA --radius R -o NEW'"
    ]


def robust_calibration_of(detector: object) -> RobustCalibration | None:
    """Find the threshold on exact bounds that a detector was calibrated with; None if there is none.

    Args:
        detector: Detector that can bound its scores.
    """
    config = getattr(detector, "config", None)
    found = getattr(config, "robust_calibration", None)
    return found if isinstance(found, RobustCalibration) else None
