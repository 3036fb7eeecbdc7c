"""Stakes that grow while a change lasts, and cannot grow much without one.

A stake is divided between all numbers with which a change could begin, by weights that sum to one: after a million
quiet numbers a change is found nearly as soon as after none. While no bet wins on average, the probability that the
whole ever grows to ``1 / alpha`` is at most ``alpha`` (Ville's inequality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Directions in which each bet is made.
DIRECTIONS = 2


def reserve(bets: npt.ArrayLike) -> Floats:
    """The part of the stake that is kept for starts after this many bets.

    Args:
        bets: Numbers of bets, >= 0.

    Example:
        >>> reserve([0, 2, 14]).tolist()
        [1.0, 0.5, 0.25]
    """
    return np.asarray(1 / np.log2(np.asarray(bets, dtype=np.float64) + 2))


def first_stake(shape: tuple[int, ...]) -> Floats:
    """Logarithm of what is bet first.

    Args:
        shape: Shape of the bets.
    """
    return np.full(shape, math.log(float(reserve(0) - reserve(1))))


def next_stake(log_stake: Floats, log_factors: Floats, bets: int) -> Floats:
    """Logarithm of what is bet next: what the last bet left, and the part of the reserve that starts now.

    Args:
        log_stake: Logarithm of the last stakes, (..., k).
        log_factors: Logarithm of what they were multiplied by, (..., k).
        bets: Number of bets so far, the last one included.
    """
    return np.logaddexp(log_stake + log_factors, math.log(float(reserve(bets) - reserve(bets + 1))))


def wealth(log_stake: Floats, bets: int) -> Floats:
    """What all stakes and the reserve are worth; 1 at the start.

    Args:
        log_stake: Logarithm of the next stakes, (..., k).
        bets: Number of bets so far.

    Returns:
        Wealth, (...).
    """
    return np.asarray(np.exp(np.minimum(log_stake, 600)).mean(axis=-1) + reserve(bets + 1))


@dataclass(frozen=True, slots=True)
class Winning:
    """Since when a bet wins.

    Attributes:
        since: Time of the first number that it wins from.
        count: Numbers since then.
        strength: Mean share of earlier numbers that each of these lies beyond.
    """

    since: str
    count: int
    strength: float


class Stakes:
    """The stakes of some bets, up and down.

    Example:
        >>> stakes = Stakes(kinds=1)
        >>> for n in range(20):
        ...     stakes.advance(np.log([[1.5], [0.5]]), np.array([0.9, 0.1]), at=str(n))
        >>> (stakes.wealth() > 100).tolist(), stakes.winning(0).since
        ([True, False], '0')
    """

    def __init__(self, kinds: int) -> None:
        """Begin a run.

        Args:
            kinds: Number of kinds of bets.
        """
        shape = (DIRECTIONS, kinds)
        self._bets = 0
        self._log_stake = first_stake(shape)
        # Page's sums: what each bet won since it last had nothing.
        self._sums, self._beyond = np.zeros(shape), np.zeros(shape)
        self._counts = np.zeros(shape, dtype=np.int64)
        self._since: list[list[str]] = [[""] * kinds for _ in range(DIRECTIONS)]

    def advance(self, log_factors: Floats, beyond: Floats, at: str) -> None:
        """Take the outcome of the bets on a number.

        Args:
            log_factors: Logarithm of what each bet multiplies its stake by, (2, k).
            beyond: Share of the numbers before that this one lies beyond, in each direction, (2,).
            at: Time of the number.
        """
        self._bets += 1
        self._log_stake = next_stake(self._log_stake, log_factors, self._bets)
        anew = self._sums <= 0
        self._sums = np.where(anew, 0, self._sums) + log_factors
        self._counts = np.where(anew, 0, self._counts) + 1
        self._beyond = np.where(anew, 0, self._beyond) + beyond[:, None]
        for direction, kind in np.argwhere(anew).tolist():
            self._since[direction][kind] = at

    def wealth(self) -> Floats:
        """What the stakes of each direction are worth, (2,); 1 at the start."""
        return wealth(self._log_stake, self._bets)

    def winning(self, direction: int) -> Winning:
        """Since when the best bet of a direction wins.

        Args:
            direction: 0 for up, 1 for down.
        """
        best = direction, int(self._log_stake[direction].argmax())
        count = int(self._counts[best])
        return Winning(self._since[best[0]][best[1]], count, float(self._beyond[best] / max(1, count)))

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values, exact."""
        return {
            "bets": self._bets,
            "log_stake": self._log_stake.tolist(),
            "sums": self._sums.tolist(),
            "beyond": self._beyond.tolist(),
            "counts": self._counts.tolist(),
            "since": [list(row) for row in self._since],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Args:
            values: JSON values.
        """
        made = cls(len(values["since"][0]))
        made._bets = values["bets"]
        made._log_stake = np.array(values["log_stake"])
        made._sums, made._beyond = np.array(values["sums"]), np.array(values["beyond"])
        made._counts = np.array(values["counts"], dtype=np.int64)
        made._since = [list(row) for row in values["since"]]
        return made
