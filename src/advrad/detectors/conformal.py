"""Split-conformal thresholds: a threshold that keeps a promised false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advrad.data.splits import normals_needed, rate_in_reach
from advrad.errors import ConfigError


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
    needed = normals_needed(false_alarm_rate)
    if len(scores) < needed:
        raise ConfigError(
            f"needs {needed} calibration images, there are {len(scores)}; give more normal images, or accept a rate of"
            f" {rate_in_reach(len(scores)):g} or more",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    if not all(math.isfinite(score) for score in scores):
        raise ConfigError("calibration: a score is not a finite number; train again")
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9)
    return sorted(scores)[rank - 1]
