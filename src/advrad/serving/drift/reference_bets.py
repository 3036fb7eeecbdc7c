"""Bets against the reference alone, which they never forget.

Numbers that join those before make a test sharper, but also make a change that lasts from the start part of what is
usual. These bets look at the reference only. How often normal numbers exceed a value of the reference is not known, but
bounded: the k-th largest of m numbers is exceeded with a probability that is beta distributed. A bet wins where numbers
exceed it more often than the bound allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advrad.serving.drift.ranks import Bag, cell_of

Floats = npt.NDArray[np.float64]

# The values of the reference that are bet on: their place from the end, as a share of the reference.
_PLACES = (0.0, 0.1, 0.3)
# How far above the bound each bet expects the rate of excess: a share of the way to 1.
_ABOVE = (0.3, 0.8)

#: Number of kinds of bets.
KINDS = len(_PLACES) * len(_ABOVE)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceBets:
    """Bets that numbers exceed values of the reference too often, up and down.

    Attributes:
        limits: Cells that numbers must exceed, up and down, (2, places).
        log_if: Logarithm of the factor of each bet for a number that exceeds its limit, (2, places, above).
        log_else: The same for another number.
    """

    limits: npt.NDArray[np.int64]
    log_if: Floats
    log_else: Floats

    @classmethod
    def of(cls, reference: Bag, alpha: float, share: float, others: int = 0) -> ReferenceBets:
        """Choose values of the reference, and bound how often normal numbers exceed them.

        Args:
            reference: Reference of m numbers.
            alpha: Probability with which any of the bounds may fail.
            share: Largest probability with which a number is of another kind, in [0, 1).
            others: How many numbers of the reference may be of another kind.

        Example:
            >>> bets = ReferenceBets.of(Bag(range(20)), alpha=0.001, share=0.0)
            >>> np.exp(bets.log_factors(25.0)).max(axis=1).round(2).tolist()
            [2.47, 0.7]
        """
        cells = reference.cells()
        size = len(cells)
        limits = np.zeros((2, len(_PLACES)), dtype=np.int64)
        factors = np.zeros((2, 2, len(_PLACES), len(_ABOVE)))
        for place, part in enumerate(_PLACES):
            rank = max(1, math.ceil(part * size))
            rate = share + (1 - share) * _most_beyond(rank + others, size, alpha / (2 * len(_PLACES)))
            if rate < 1:
                limits[:, place] = cells[size - rank], cells[rank - 1]
                factors[:, :, place] = _factors(rate)
        return cls(limits, factors[:, 0], factors[:, 1])

    def log_factors(self, value: float) -> Floats:
        """Logarithm of what each bet multiplies its stake by, (2, k).

        Args:
            value: Next number.
        """
        cell = cell_of(value)
        beyond = np.stack([cell > self.limits[0], cell < self.limits[1]])
        chosen: Floats = np.where(beyond[..., None], self.log_if, self.log_else)
        return chosen.reshape(2, -1)


def _most_beyond(rank: int, size: int, alpha: float) -> float:
    """Bound on the probability that a number exceeds the one of this rank from the end, 1 where there is none."""
    from scipy.special import betaincinv

    return float(betaincinv(rank, size - rank + 1, 1 - alpha)) if 0 < rank <= size else 1.0


def _factors(rate: float) -> Sequence[Sequence[float]]:
    """Logarithms for numbers beyond and not beyond, by bet: likelihood ratios of a higher rate and this one."""
    higher = [rate + (1 - rate) * above for above in _ABOVE]
    return [[math.log(one / rate) for one in higher], [math.log((1 - one) / (1 - rate)) for one in higher]]
