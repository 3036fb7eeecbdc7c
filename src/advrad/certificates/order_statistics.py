"""Confidence bounds on the quantiles of a smoothed score from n noise samples, with exact binomial tails.

A score is smoothed by adding Gaussian noise to its input and taking a quantile. A perturbation that moves the centre of
the noise by ``shift`` standard deviations changes the level of a quantile, measured in standard deviations, by at most
``shift`` (Neyman-Pearson lemma). Two quantiles of the unperturbed score therefore bound the smoothed score of every
perturbed image. The proofs are in docs/certificates.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from advrad.errors import ConfigError

Floats = npt.NDArray[np.float64]

#: Number of samples at the first interim analysis, and the factor from one analysis to the next.
FIRST_SIZE = 16
SIZE_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of the two quantiles of the unperturbed score that bound a quantile of the perturbed score.

    Attributes:
        low: Level of the lower quantile; the perturbed quantile is never below it.
        high: Level of the upper quantile; the perturbed quantile is never above it.
    """

    low: float
    high: float


@lru_cache(maxsize=4096)
def levels(shift: float, quantile: float = 0.5) -> Levels:
    """Compute the levels of the quantiles that bound a quantile under every perturbation.

    Guarantee: if the centre of the noise moves by at most ``shift`` standard deviations, the quantile at ``quantile``
    of any function of the noised input stays between the quantiles at ``low`` and ``high`` of the unmoved one.

    Args:
        shift: Largest movement of the noise's centre, in standard deviations of the noise, >= 0.
        quantile: Level of the quantile that smooths the score, in (0, 1).

    Returns:
        The two levels, ``Phi(Phi^-1(quantile) - shift)`` and ``Phi(Phi^-1(quantile) + shift)``.

    Source: Chiang et al. 2020, "Detection as Regression", the lemma on percentile smoothing.

    Example:
        >>> at = levels(1.0)
        >>> round(at.low, 3), round(at.high, 3)
        (0.159, 0.841)
    """
    from scipy.stats import norm  # takes a second to load

    centre = float(norm.ppf(quantile))
    return Levels(float(norm.cdf(centre - shift)), float(norm.cdf(centre + shift)))


@lru_cache(maxsize=4096)
def rank_below(n: int, level: float, alpha: float) -> int | None:
    """Find the rank of a sample that is a lower confidence bound of a quantile.

    Guarantee: with probability at least ``1 - alpha`` the sample of this rank is at most the quantile. The k-th
    smallest of n samples exceeds the quantile only if fewer than k samples are at or below it, and each sample is so
    with probability at least ``level``.

    Args:
        n: Number of independent samples, >= 1.
        level: Level of the quantile, in (0, 1).
        alpha: Probability that the bound fails, in (0, 1).

    Returns:
        The largest such rank, 1 (smallest sample) to n; None if n is too small for any.
    """
    from scipy.stats import binom

    # The largest k with P(Bin(n, level) <= k - 1) <= alpha; ppf is the smallest j with P(Bin <= j) >= alpha.
    rank = int(binom.ppf(alpha, n, level)) + 1
    while rank >= 1 and not binom.cdf(rank - 1, n, level) <= alpha:
        rank -= 1
    return rank if rank >= 1 else None


def rank_above(n: int, level: float, alpha: float) -> int | None:
    """Find the rank of a sample that is an upper confidence bound of a quantile.

    The mirror image of :func:`rank_below`: the k-th smallest sample is below the quantile only if at least k samples
    are.

    Args:
        n: Number of independent samples, >= 1.
        level: Level of the quantile, in (0, 1).
        alpha: Probability that the bound fails, in (0, 1).

    Returns:
        The smallest such rank, 1 (smallest sample) to n; None if n is too small for any.
    """
    mirrored = rank_below(n, 1 - level, alpha)
    return None if mirrored is None else n + 1 - mirrored


def samples_needed(shift: float, alpha: float, quantile: float = 0.5) -> int:
    """Compute the smallest number of samples that bounds a smoothed score on both sides.

    Args:
        shift: Largest movement of the noise's centre, in standard deviations of the noise, >= 0.
        alpha: Probability that one side fails, in (0, 1).
        quantile: Level of the quantile that smooths the score, in (0, 1).

    Returns:
        The number of samples.

    Raises:
        ConfigError: More than 10^9 samples would be needed.
    """
    at = levels(shift, quantile)
    rarest = min(at.low, 1 - at.high)
    needed = math.log(alpha) / math.log1p(-rarest) if rarest > 0 else math.inf
    if not needed < 1e9:
        raise ConfigError(
            f"a radius of {shift:.3g} standard deviations of the noise cannot be certified with any number of samples;"
            " choose a smaller radius, or a detector that uses stronger noise"
        )
    # The logarithms may be off by rounding, so the exact ranks decide.
    n = max(1, math.ceil(needed) - 1)
    while rank_below(n, at.low, alpha) is None or rank_above(n, at.high, alpha) is None:
        n += 1
    return n


def bounds(
    lower: Floats, upper: Floats, shifts: Sequence[float], alpha: float, quantile: float = 0.5
) -> tuple[float, float]:
    """Bound a smoothed score for every perturbed image, from samples of a lower and an upper score.

    The smoothed score is the mean over parts of the quantile over samples; each part has noise of its own.

    Guarantee: each of the two bounds fails with probability at most ``alpha``.

    Args:
        lower: Samples of the lower score, (parts, n), independent over n. For the same noise, no perturbed image has a
            smaller score.
        upper: The same samples of the upper score, (parts, n). For the same noise, no perturbed image has a larger one.
        shifts: Movement of each part's noise, (parts,), in its standard deviations, >= 0.
        alpha: Probability that one side fails, in (0, 1); the parts share it equally (union bound).
        quantile: Level of the quantile that smooths the score, in (0, 1).

    Returns:
        Lower and upper bound; -inf and inf where n is too small.
    """
    lows, highs, n = [], [], lower.shape[1]
    for part, shift in enumerate(shifts):
        at = levels(shift, quantile)
        below = rank_below(n, at.low, alpha / len(shifts))
        above = rank_above(n, at.high, alpha / len(shifts))
        lows.append(-math.inf if below is None else _value_at(lower[part], below))
        highs.append(math.inf if above is None else _value_at(upper[part], above))
    return float(np.mean(lows)), float(np.mean(highs))


def _value_at(values: Floats, rank: int) -> float:
    """The value of this rank; rank 1 is the smallest."""
    return float(np.partition(values, rank - 1)[rank - 1])


def binary_radius(count: int, n: int, sigma: float, alpha: float) -> float:
    """Compute the radius within which a majority verdict holds, for a score that depends on the noised image only.

    Guarantee: with probability at least ``1 - alpha`` the verdict is the same for every perturbation within the radius.

    Args:
        count: Number of samples with this verdict. The verdict must have been selected with other samples, or in
            advance.
        n: Number of samples.
        sigma: Standard deviation of the noise, in the units of the radius.
        alpha: Probability that the radius is too large, in (0, 1).

    Returns:
        The radius; 0 (ABSTAIN) where the majority is not certain.

    Source: Cohen, Rosenfeld, Kolter 2019, CERTIFY, with the Clopper-Pearson bound.
    """
    from scipy.stats import beta, norm

    if count == 0:
        return 0.0
    p_lower = float(beta.ppf(alpha, count, n - count + 1))
    return sigma * float(norm.ppf(p_lower)) if p_lower > 0.5 else 0.0


def interim_sizes(n: int) -> tuple[int, ...]:
    """List the sample sizes at which a sequential test checks whether it can stop; the last is n.

    Every check may fail, so they share alpha in equal parts (alpha-spending).

    Args:
        n: Largest number of samples, >= 1.

    Returns:
        Increasing sample sizes.

    Example:
        >>> interim_sizes(100)
        (16, 24, 36, 54, 81, 100)
    """
    sizes: list[int] = []
    size = float(FIRST_SIZE)
    while round(size) < n:
        sizes.append(round(size))
        size *= SIZE_FACTOR
    return (*sizes, n)


def futility(
    lower: Floats, upper: Floats, shifts: Sequence[float], threshold: float, quantile: float = 0.5, doubt: float = 0.01
) -> bool:
    """Decide whether a sequential test should abstain early because more samples would hardly bring a verdict.

    An abstention is never an error, so this costs none of alpha and guarantees nothing.

    Args:
        lower: Samples of the lower score as in :func:`bounds`.
        upper: Samples of the upper score as in :func:`bounds`.
        shifts: Movement of each part's noise as in :func:`bounds`.
        threshold: Threshold of the verdict.
        quantile: Level of the quantile that smooths the score, in (0, 1).
        doubt: Approximate probability of abstaining where all samples would have brought a verdict.

    Returns:
        Whether to abstain.
    """
    highest, lowest, n = [], [], lower.shape[1]
    for part, shift in enumerate(shifts):
        at = levels(shift, quantile)
        # Bound each of the two quantiles from the side of the threshold: how favourable can it still be?
        above, below = rank_above(n, at.low, doubt), rank_below(n, at.high, doubt)
        highest.append(math.inf if above is None else _value_at(lower[part], above))
        lowest.append(-math.inf if below is None else _value_at(upper[part], below))
    return float(np.mean(highest)) <= threshold < float(np.mean(lowest))
