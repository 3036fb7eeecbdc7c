"""Shares of images, with the interval that so few images leave open."""

from __future__ import annotations

#: Probability with which the interval holds the share.
CONFIDENCE = 0.95


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Interval of a share that holds it with a probability of at least 95 %, whatever it is (Clopper and Pearson).

    Args:
        count: Number of images that have a property.
        total: Number of all images, >= 1.

    Example:
        >>> [round(end, 3) for end in share_interval(0, 20)]
        [0.0, 0.168]
    """
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)
