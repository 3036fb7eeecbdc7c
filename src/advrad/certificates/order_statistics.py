"""What n draws of a smoothed score prove about its quantiles, with exact binomial tails.

A score h is smoothed by adding Gaussian noise to what it sees and taking a quantile. An adversary who moves the image
by ``shift`` standard deviations of the noise can move the level of a quantile, seen in standard deviations, by no more
than that (the Neyman-Pearson lemma). Bounds on two quantiles of the unmoved score then bound every moved one. The
proofs are in docs/certificates.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom, norm

from advrad.errors import ConfigError

Floats = npt.NDArray[np.float64]

#: Smallest number of draws at which anything is looked at, and the factor to the next look.
FIRST_LOOK = 16
LOOK_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Levels:
    """Which quantiles of the score as it is bound the quantile that is meant, of the score as it may become.

    Attributes:
        low: level of the quantile that none falls below.
        high: level of the quantile that none rises above.
    """

    low: float
    high: float


@lru_cache(maxsize=4096)
def levels(shift: float, quantile: float = 0.5) -> Levels:
    """The levels that bound a quantile under attack.

    Args:
        shift: largest move of the noise's centre, in standard deviations of the noise, >= 0.
        quantile: that is meant, strictly between 0 and 1.

    Source: Chiang et al. 2020, "Detection as Regression", the lemma on percentile smoothing.
    """
    centre = float(norm.ppf(quantile))
    return Levels(float(norm.cdf(centre - shift)), float(norm.cdf(centre + shift)))


@lru_cache(maxsize=4096)
def rank_below(draws: int, level: float, failure: float) -> int | None:
    """Rank of a draw that lies at or below the quantile of this level, but for a probability of at most ``failure``.

    The k-th smallest of n draws lies above the quantile only if fewer than k draws lie at or below it, and each does
    with a probability of at least ``level``.

    Args:
        draws: n >= 1.
        level: strictly between 0 and 1.
        failure: strictly between 0 and 1.

    Returns:
        The largest such rank, from 1 to n; None where not even the smallest draw will do.
    """
    # The largest k with P(Bin(n, level) <= k - 1) <= failure; ppf is the smallest j with P(Bin <= j) >= failure.
    rank = int(binom.ppf(failure, draws, level)) + 1
    while rank >= 1 and not binom.cdf(rank - 1, draws, level) <= failure:
        rank -= 1
    return rank if rank >= 1 else None


def rank_above(draws: int, level: float, failure: float) -> int | None:
    """Rank of a draw that lies at or above the quantile of this level, but for a probability of at most ``failure``.

    The mirror image of :func:`rank_below`; the k-th smallest lies below the quantile only if k draws or more do.

    Returns:
        The smallest such rank, from 1 to n; None where not even the largest draw will do.
    """
    mirrored = rank_below(draws, 1 - level, failure)
    return None if mirrored is None else draws + 1 - mirrored


def draws_needed(shift: float, failure: float, quantile: float = 0.5) -> int:
    """Fewest draws that bound the quantile on both sides, each side with this probability of failure.

    Raises:
        ConfigError: more than a thousand million.
    """
    bounds = levels(shift, quantile)
    rarest = min(bounds.low, 1 - bounds.high)
    needed = math.log(failure) / math.log1p(-rarest) if rarest > 0 else math.inf
    if not needed < 1e9:
        raise ConfigError(
            f"a radius of {shift:.3g} standard deviations of the noise cannot be certified by any number of draws;"
            " choose a smaller --radius, or a detector that looks through stronger noise"
        )
    # The logarithms may be off by a rounding, so the ranks have the last word.
    count = max(1, math.ceil(needed) - 1)
    while rank_below(count, bounds.low, failure) is None or rank_above(count, bounds.high, failure) is None:
        count += 1
    return count


def bounds(
    lower: Floats, upper: Floats, shifts: Sequence[float], failure: float, quantile: float = 0.5
) -> tuple[float, float]:
    """Bounds on a smoothed score under every attack, from draws of a lower and an upper score.

    The score is the mean of parts, each smoothed by itself, and each through noise of its own.

    Args:
        lower: (parts, n) independent draws of a score that the attacked one never falls below, for the same noise.
        upper: (parts, n) the same draws of a score that it never rises above.
        shifts: of each part's noise, in standard deviations, >= 0.
        failure: probability that a side fails to bound; each of the two. The parts share it (union bound).
        quantile: that smooths.

    Returns:
        Lower and upper bound; -inf and inf where the draws are too few.
    """
    lows, highs, count = [], [], lower.shape[1]
    for part, shift in enumerate(shifts):
        at = levels(shift, quantile)
        below = rank_below(count, at.low, failure / len(shifts))
        above = rank_above(count, at.high, failure / len(shifts))
        lows.append(-math.inf if below is None else _smallest(lower[part], below))
        highs.append(math.inf if above is None else _smallest(upper[part], above))
    return float(np.mean(lows)), float(np.mean(highs))


def _smallest(values: Floats, rank: int) -> float:
    """The value of this rank; 1 is the smallest."""
    return float(np.partition(values, rank - 1)[rank - 1])


def binary_radius(count: int, draws: int, sigma: float, failure: float) -> float:
    """Radius within which a majority verdict stands, for a score that sees the noised image only.

    Args:
        count: draws that gave this verdict, which other draws, or none, have picked.
        draws: all draws.
        sigma: of the noise, in the radius's units.
        failure: probability that the radius is too large.

    Returns:
        The radius, 0 where there is no such majority.

    Source: Cohen, Rosenfeld, Kolter 2019, with the Clopper-Pearson bound.
    """
    if count == 0:
        return 0.0
    share = float(beta.ppf(failure, count, draws - count + 1))
    return sigma * float(norm.ppf(share)) if share > 0.5 else 0.0


def interim_sizes(draws: int) -> tuple[int, ...]:
    """After how many draws a verdict that may stop early is looked at; the last look is at all of them.

    Each look may fail, so the probability of failure is shared out among them: alpha-spending in equal parts.

    Args:
        draws: at most so many, >= 1.
    """
    found: list[int] = []
    look = float(FIRST_LOOK)
    while round(look) < draws:
        found.append(round(look))
        look *= LOOK_FACTOR
    return (*found, draws)


def futility(
    lower: Floats, upper: Floats, shifts: Sequence[float], threshold: float, doubt: float = 0.01, quantile: float = 0.5
) -> bool:
    """Whether more draws would hardly bring a verdict. To give up is no error, so this promises nothing.

    Args:
        lower: (parts, n) as in :func:`bounds`.
        upper: (parts, n) as in :func:`bounds`.
        shifts: as in :func:`bounds`.
        threshold: of the verdict.
        doubt: about the probability of giving up where the draws would have brought a verdict in the end.
        quantile: that smooths.
    """
    most, least, count = [], [], lower.shape[1]
    for part, shift in enumerate(shifts):
        at = levels(shift, quantile)
        # What the two quantiles can hope to be, seen from the other side.
        above, below = rank_above(count, at.low, doubt), rank_below(count, at.high, doubt)
        most.append(math.inf if above is None else _smallest(lower[part], above))
        least.append(-math.inf if below is None else _smallest(upper[part], below))
    return float(np.mean(most)) <= threshold < float(np.mean(least))
