"""From scores to verdicts: a threshold that keeps a promised false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advrad.data.splits import normals_needed, rate_in_reach
from advrad.errors import ConfigError


def conformal_threshold(scores: Sequence[float], false_alarm_rate: float = 0.05) -> float:
    """Split-conformal threshold: a new normal image exceeds it with at most the given probability.

    The promise holds for images exchangeable with the calibration images, on average over calibration sets,
    and for any score, however poor. It says nothing about defects.

    Args:
        scores: of calibration images: normal, used for nothing else.
        false_alarm_rate: alpha, strictly between 0 and 1.

    Returns:
        The ``ceil((n + 1) (1 - alpha))``-th smallest score; the verdict is defective where score > threshold.

    Raises:
        ConfigError: too few scores for the rate, or a score that is no number.

    Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (split or inductive form).
    """
    needed = normals_needed(false_alarm_rate)
    if len(scores) < needed:
        raise ConfigError(
            f"--false-alarm-rate {false_alarm_rate:g}: needs {needed} calibration images, there are {len(scores)};"
            f" give more normal images, or accept a rate of {rate_in_reach(len(scores)):g} or more"
        )
    if not all(math.isfinite(score) for score in scores):
        raise ConfigError("calibration: a score is not a finite number; train again")
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9)
    return sorted(scores)[rank - 1]
