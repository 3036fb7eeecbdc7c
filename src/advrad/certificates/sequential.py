"""Certified verdicts on one image, from a fixed number of noise samples or from a test that stops early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advrad.certificates.order_statistics import (
    Floats,
    bounds,
    futility,
    interim_sizes,
    levels,
    rank_above,
    rank_below,
)
from advrad.certificates.smoothing import Sampler, samples_for_bounds

Verdict = Literal["certified anomalous", "certified normal", "abstain"]
ABSTAIN: Verdict = "abstain"

#: Radii that are computed besides the requested ones, for curves and for the radius of a verdict.
RADIUS_GRID = tuple(round(0.05 * 1.4**step, 4) for step in range(12))


@dataclass(frozen=True, slots=True)
class CertifiedPrediction:
    """A certified verdict on one image.

    Attributes:
        verdict: Verdict on the smoothed score of every image within ``radius``.
        n_samples: Number of noise samples that were used.
        radius: Radius for which the verdict is certified, l2; 0 for an abstention.

    Example:
        >>> CertifiedPrediction("certified normal", n_samples=24, radius=0.1).verdict
        'certified normal'
    """

    verdict: Verdict
    n_samples: int
    radius: float


def radius_grid(radii: Sequence[float]) -> tuple[float, ...]:
    """List the requested radii and those of :data:`RADIUS_GRID`, increasing, each once."""
    return tuple(sorted({*radii, *RADIUS_GRID}))


def scaled(shifts: Sequence[float], radius: float) -> list[float]:
    """Movement of each part's noise, (parts,), for a perturbation of length ``radius`` instead of 1."""
    return [shift * radius for shift in shifts]


def certified_decision(
    lower: Floats, upper: Floats, shifts: Sequence[float], threshold: float, alpha: float, quantile: float = 0.5
) -> Verdict:
    """Decide with a fixed number of samples.

    Guarantee: with probability at least ``1 - alpha`` the verdict, unless it is ABSTAIN, is that of the smoothed score
    of every image within the radius.

    Args:
        lower: Samples of the lower score, (parts, n), as in :func:`advrad.certificates.order_statistics.bounds`.
        upper: Samples of the upper score, (parts, n), likewise.
        shifts: Movement of each part's noise for the radius, (parts,), in its standard deviations.
        threshold: Threshold of the smoothed score; the verdict is anomalous where score > threshold.
        alpha: Probability that a certified verdict is wrong, in (0, 1).
        quantile: Level of the quantile that smooths the score, in (0, 1).

    Returns:
        The verdict.
    """
    # Where some images within the radius are anomalous and some are not, either verdict is wrong: alpha / 2 per side.
    low, high = bounds(lower, upper, shifts, alpha / 2, quantile)
    if low > threshold:
        return "certified anomalous"
    return "certified normal" if high <= threshold else ABSTAIN


def certify_sequential(
    sampler: Sampler,
    image: Tensor,
    radius: float,
    threshold: float,
    n_samples: int,
    alpha: float,
    generator: torch.Generator,
) -> CertifiedPrediction:
    """Certify the verdict on one image with as few noise samples as possible.

    After each of a fixed number of sample sizes the test decides or goes on; each check gets an equal share of alpha.
    The test abstains early when a verdict has become unlikely.

    Guarantee: with probability at least ``1 - alpha`` the verdict, unless it is ABSTAIN, is that of the smoothed score
    of every image within the returned radius.

    Args:
        sampler: Sampler of the score.
        image: Image as given, (c, h, w), float in [0, 1].
        radius: Radius for which a verdict is wanted, l2; the returned one may be larger.
        threshold: Threshold of the smoothed score; the verdict is anomalous where score > threshold.
        n_samples: Largest number of noise samples.
        alpha: Probability that a certified verdict or its radius is wrong, in (0, 1).
        generator: Source of all noise; an adversary must not be able to predict it.

    Returns:
        The verdict, its radius, and the number of samples used.

    Example:
        >>> from advrad import wrap
        >>> from advrad.certificates import Percentile
        >>> detector = wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> sampler, generator = Percentile(detector, sigma=0.2, deterministic=True), torch.Generator().manual_seed(0)
        >>> certify_sequential(sampler, torch.zeros(3, 8, 8), 0.1, 0.5, 1000, 0.001, generator).verdict
        'certified normal'
    """
    at_one, sizes, quantile = sampler.shifts(*image.shape[1:]), interim_sizes(n_samples), sampler.quantile
    grid = reachable(radius_grid((radius,)), at_one, n_samples, alpha, quantile)
    if radius not in grid:
        return CertifiedPrediction(ABSTAIN, 0, 0.0)
    wanted = grid.index(radius)
    lower = upper = np.empty((len(at_one), len(grid), 0))
    for size in sizes:
        # Step 1: draw the samples that are missing up to this size.
        more = sampler.sample(image, grid, size - lower.shape[2], generator)
        lower, upper = (np.concatenate([old, new], axis=2) for old, new in zip((lower, upper), more, strict=True))
        # Step 2: decide for every radius with this check's share of alpha.
        verdicts = [
            certified_decision(
                lower[:, index], upper[:, index], scaled(at_one, r), threshold, alpha / len(sizes), quantile
            )
            for index, r in enumerate(grid)
        ]
        reached = certified_index(verdicts)
        if reached >= wanted:
            return CertifiedPrediction(verdicts[0], size, grid[reached])
        # Step 3: abstain if a verdict has become unlikely.
        if futility(lower[:, wanted], upper[:, wanted], scaled(at_one, radius), threshold, quantile):
            break
    return CertifiedPrediction(ABSTAIN, lower.shape[2], 0.0)


def replay_sequential(
    lower: Floats, upper: Floats, shifts: Sequence[float], threshold: float, alpha: float, quantile: float
) -> tuple[Verdict, int]:
    """Compute what :func:`certify_sequential` would have returned, from samples that exist already.

    Args:
        lower: Samples of the lower score for one radius, (parts, n).
        upper: Samples of the upper score for this radius, (parts, n).
        shifts: Movement of each part's noise for this radius, (parts,), in its standard deviations.
        threshold: Threshold of the smoothed score.
        alpha: Probability that a certified verdict is wrong, in (0, 1).
        quantile: Level of the quantile that smooths the score, in (0, 1).

    Returns:
        The verdict and the number of samples used.
    """
    sizes = interim_sizes(lower.shape[1])
    for size in sizes:
        verdict = certified_decision(lower[:, :size], upper[:, :size], shifts, threshold, alpha / len(sizes), quantile)
        if verdict != ABSTAIN:
            return verdict, size
        if futility(lower[:, :size], upper[:, :size], shifts, threshold, quantile):
            return ABSTAIN, size
    return ABSTAIN, sizes[-1]


def samples_for_verdict(sampler: Sampler, sides: Sequence[int], radius: float, alpha: float) -> int:
    """Compute the smallest number of samples with which :func:`certify_sequential` can reach a verdict.

    Args:
        sampler: Sampler of the score.
        sides: Height and width of the image as given.
        radius: Radius for which a verdict is wanted, l2.
        alpha: Probability that the verdict is wrong, in (0, 1).

    Returns:
        The number of samples.

    Raises:
        ConfigError: The radius is too large for any number of samples.
    """
    n = 1
    while True:  # more samples mean more interim checks, which leave each a smaller share of alpha
        needed = samples_for_bounds(sampler, sides, radius, alpha / (2 * len(interim_sizes(n))))
        if needed <= n:
            return n
        n = needed


def reachable(
    radii: Sequence[float], shifts: Sequence[float], n_samples: int, alpha: float, quantile: float
) -> tuple[float, ...]:
    """Keep the radii at which a number of samples can bound both sides; the others need not be computed.

    Args:
        radii: Radii, increasing.
        shifts: Movement of each part's noise for a perturbation of length 1, (parts,), in its standard deviations.
        n_samples: Number of noise samples.
        alpha: Probability that the two sides fail, in (0, 1).
        quantile: Level of the quantile that smooths the score, in (0, 1).

    Returns:
        The first few of the radii.
    """
    share = alpha / (2 * len(shifts))

    def bounded(shift: float) -> bool:
        at = levels(shift, quantile)
        return rank_below(n_samples, at.low, share) is not None and rank_above(n_samples, at.high, share) is not None

    return tuple(radius for radius in radii if all(map(bounded, scaled(shifts, radius))))


def certified_index(verdicts: Sequence[Verdict]) -> int:
    """Find the largest radius of a verdict: the last index up to which all verdicts are the same.

    This needs no union bound over the radii: a claim that reaches too far includes the first radius at which the
    verdict is untrue, so its probability is that of an error at this one radius.

    Args:
        verdicts: Verdicts at increasing radii.

    Returns:
        The index; -1 if the first verdict is ABSTAIN.
    """
    if verdicts[0] == ABSTAIN:
        return -1
    same = [verdict == verdicts[0] for verdict in verdicts]
    return len(same) - 1 if all(same) else same.index(False) - 1
