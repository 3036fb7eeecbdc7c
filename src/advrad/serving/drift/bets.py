"""Bets on a shift of ranks that cannot win on average while nothing has changed, some other images allowed.

While images are like those before, the rank of a new one among them is a uniform number. A bet multiplies a stake by a
function of that rank; it is fair or worse if the function's mean is at most 1. The functions here are likelihood ratios
of a shift of a normal distribution by some standard deviations, clipped and divided by their largest possible mean over
all streams in which a given share of the images is arbitrary (Huber's robust test). docs/drift.md has the proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Shifts that are bet on, in standard deviations.
SHIFTS: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
# Each line bounds the number of other images by a rate that is this multiple of their share.
_LINES = (1.25, 2.0, 4.0)
# Ranks beyond this many standard deviations are not told apart.
_FARTHEST = 8.0
# Slacks are rounded up to this step, so that few bets have to be computed.
_STEP = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Bets:
    """One bet for each of ``SHIFTS``.

    Attributes:
        bottom: Least rank that counts, as a normal score.
        tops: Largest rank that counts, as a normal score, (k,).
        log_means: Logarithm of the largest possible mean of each unscaled bet, (k,).
    """

    bottom: float
    tops: Floats
    log_means: Floats

    def log_factors(self, scores: npt.ArrayLike) -> Floats:
        """The logarithm of what each bet multiplies its stake by.

        Args:
            scores: Ranks as normal scores, any shape: large where an image lies in the bet's direction of the others.

        Returns:
            Logarithms, with one more axis of length k.
        """
        clipped = np.clip(np.asarray(scores, dtype=np.float64)[..., None], self.bottom, self.tops)
        shifts = np.array(SHIFTS)
        return np.asarray(shifts * clipped - shifts**2 / 2 - self.log_means)


def bets_for(share: float, slack: float) -> Bets:
    """Make the bets that are fair or worse while at most a share of the images is different.

    Args:
        share: Largest share of images that may be different in any way, in [0, 1).
        slack: Largest share of such images among those that the new one is compared with, in [0, 1].

    Example:
        >>> import numpy as np
        >>> ranks = (np.arange(10000) + 0.5) / 10000
        >>> from scipy.special import ndtri
        >>> means = np.exp(bets_for(0.0, 0.0).log_factors(-ndtri(ranks))).mean(axis=0)
        >>> bool(np.all(means <= 1.0001))
        True
    """
    return _bets(share, math.ceil(slack / _STEP - 1e-9))


@lru_cache(maxsize=2048)
def _bets(share: float, steps: int) -> Bets:
    from scipy.special import ndtr, ndtri

    slack, shifts = min(steps * _STEP, 1.0), np.array(SHIFTS)
    atom, rest = share + (1 - share) * slack, 1 - share
    bottom = -_FARTHEST if slack == 0 else float(np.clip(-ndtri(1 - slack), -_FARTHEST, _FARTHEST))
    # Bisection for the top at which clipping costs least: there, the bet equals its mean over all larger ranks.
    low, high = np.full(len(SHIFTS), -_FARTHEST), np.full(len(SHIFTS), _FARTHEST)
    for _ in range(50):
        top = (low + high) / 2
        too_high = rest * ndtr(shifts - top) < np.exp(shifts * top - shifts**2 / 2) * (atom + rest * ndtr(-top))
        low, high = np.where(too_high, low, top), np.where(too_high, top, high)
    tops = np.maximum(low, bottom)
    beyond = np.exp(shifts * tops - shifts**2 / 2) * (atom + rest * ndtr(-tops))
    within = rest * (ndtr(shifts - bottom) - ndtr(shifts - tops))
    below = rest * max(0.0, 1 - slack - float(ndtr(-bottom))) * np.exp(shifts * bottom - shifts**2 / 2)
    return Bets(bottom, tops, np.log(beyond + within + below))


def most_others(count: npt.ArrayLike, share: float, alpha: float) -> npt.NDArray[np.int64]:
    """Bound the number of other images, for all counts at once.

    Args:
        count: Numbers of images.
        share: Largest probability with which an image is one of the others, whatever came before, in [0, 1).
        alpha: Probability with which the bound may fail for any count, ever.

    Returns:
        Largest numbers of others.

    Example:
        >>> most_others([0, 10, 100, 10000], share=0.05, alpha=0.001).tolist()
        [0, 4, 15, 642]
    """
    counts = np.asarray(count, dtype=np.float64)
    if share == 0:
        return np.zeros(counts.shape, dtype=np.int64)
    bounds = [rate * counts + math.log(len(_LINES) / alpha) / tilt for rate, tilt in _tilts(share)]
    return np.asarray(np.floor(np.minimum(counts, np.min(bounds, axis=0))), dtype=np.int64)


@lru_cache(maxsize=64)
def _tilts(share: float) -> tuple[tuple[float, float], ...]:
    """Rate of each line, and the largest ``t`` with ``1 + share (exp(t) - 1) <= exp(rate t)``."""
    found = []
    for rate in (multiple * share for multiple in _LINES):
        low, high = 0.0, 50.0
        if rate >= 1:
            continue  # there are never more others than images
        for _ in range(100):
            tilt = (low + high) / 2
            below = math.log1p(share * math.expm1(tilt)) <= rate * tilt
            low, high = (tilt, high) if below else (low, tilt)
        found.append((rate, low))
    return tuple(found)
