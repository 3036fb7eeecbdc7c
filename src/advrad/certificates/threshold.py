"""A threshold for smoothed scores that keeps its false-alarm rate while somebody moves every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advrad.certificates.options import CONFIDENCE, N_SAMPLES
from advrad.certificates.order_statistics import bounds
from advrad.certificates.smoothing import Sampler, draws_in_reach, refuse_too_few
from advrad.data.splits import normals_needed
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import RobustCalibration
from advrad.detectors.conformal import conformal_threshold
from advrad.errors import ConfigError
from advrad.utils.progress import SILENT, ProgressReporter


def upper_bounds(
    sampler: Sampler,
    normals: Sequence[Tensor],
    radius: float,
    draws: int,
    confidence: float,
    generator: torch.Generator,
    progress: ProgressReporter = SILENT,
) -> list[float]:
    """For each image a bound that its smoothed score does not exceed within the radius, with this confidence each.

    Args:
        sampler: of the score.
        normals: (c, h, w) each, in [0, 1].
        radius: l2, in [0, 1] pixel units of these images.
        draws: of each score.
        confidence: of each bound.
        generator: source of all noise.
        progress: Receives the progress.

    Raises:
        ConfigError: the radius is out of reach of so many draws.
    """
    found = []
    for index, image in enumerate(normals):
        shifts = [shift * radius for shift in sampler.shifts(*image.shape[1:])]
        failure = 1 - confidence
        needed = draws_in_reach(sampler, image.shape[1:], radius, failure)
        refuse_too_few(needed, draws, radius, confidence, sampler)
        lower, upper = sampler.draw(image, (radius,), draws, generator)
        found.append(bounds(lower[:, 0], upper[:, 0], shifts, failure, sampler.quantile)[1])
        progress.update(index + 1, len(normals))
    return found


def promised_rate(false_alarm_rate: float, confidence: float) -> float:
    """The rate to calibrate for, so that what a bound may miss is part of the promise.

    A moved normal image raises a false alarm only if its upper bound lies above the threshold, or if that bound
    fails, or if the lower bound that the verdict rests on fails.

    Raises:
        ConfigError: the confidence leaves nothing of the rate.
    """
    left = false_alarm_rate - 2 * (1 - confidence)
    if left <= 0:
        raise ConfigError(
            f"--false-alarm-rate {false_alarm_rate:g}: is used up by a confidence of {confidence:g}; raise either"
        )
    return left


def least_rate(images: int, confidence: float) -> float:
    """Lowest rate, rounded up to four digits, that so many calibration images can promise under attack."""
    return math.ceil(1e4 * (1 / (images + 1) + 2 * (1 - confidence))) / 1e4


def calibrate_robust_threshold(
    sampler: Sampler,
    normals: Sequence[Tensor],
    *,
    false_alarm_rate: float,
    radius: float,
    draws: int = N_SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    source: dict[str, Any] | None = None,
    progress: ProgressReporter = SILENT,
) -> RobustCalibration:
    """The threshold that a normal image's certified verdict passes with at most this probability, moved or not.

    It is the split-conformal quantile of the upper bounds. Normal images must be exchangeable with those of the
    calibration; the attack may look at everything but the noise that the verdict will draw.

    Args:
        sampler: of the score.
        normals: images that nothing else was learnt from, (c, h, w) each, in [0, 1].
        false_alarm_rate: promised.
        radius: l2, in [0, 1] pixel units of these images.
        draws: of each score.
        confidence: of each bound, and at least that of the verdicts to come.
        seed: of the noise.
        source: provenance, kept with the threshold.
        progress: Receives the progress.

    Raises:
        ConfigError: too few images for the rate, or the radius is out of reach of the draws.
    """
    rate = promised_rate(false_alarm_rate, confidence)
    needed = normals_needed(rate)
    if len(normals) < needed:
        raise ConfigError(
            f"--false-alarm-rate {false_alarm_rate:g}: needs {needed} calibration images under attack, there are"
            f" {len(normals)}; give more normal images, or accept a rate of"
            f" {least_rate(len(normals), confidence):g} or more"
        )
    generator = torch.Generator().manual_seed(seed)
    values = upper_bounds(sampler, normals, radius, draws, confidence, generator, progress)
    return RobustCalibration(
        threshold=conformal_threshold(values, rate),
        false_alarm_rate=false_alarm_rate,
        radius=radius,
        n=len(normals),
        n_samples=draws,
        confidence=confidence,
        source=source or {},
    )


def certified_threshold(detector: AdvRAD) -> tuple[float | None, list[str]]:
    """The threshold for the score that two-path certificates speak of, and what is to be said of it."""
    config = detector.detector_config
    if config.robust_calibration is not None:
        return config.robust_calibration.threshold, []
    if config.calibration is None:
        return None, []
    return config.calibration.threshold, [
        "the threshold was set for plain scores; it promises no false-alarm rate for certified verdicts: set one that"
        " does with 'advrad calibrate RUN DATA --radius R -o NEW'"
    ]
