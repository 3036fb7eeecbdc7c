"""A test that runs for ever: does a stream of numbers still look like those before?

Its false alarms are bounded over the whole run, not for each look: if nothing changes, the probability that it ever
sounds is at most ``alpha``. docs/drift.md has the proof.

Each new number is ranked among all before it, the reference and the stream, and then joins them. While all are
exchangeable, these ranks are independent and uniform, so a stake that is bet on them wins nothing on average, and the
probability that it ever grows to ``1 / alpha`` times itself is at most ``alpha`` (Ville's inequality). Ranks among the
reference alone would not do: they share its error, and the stake would grow from that.

The stake is divided between all days on which a change could begin, by weights that sum to one, so a change after a
million quiet images is found nearly as soon as one at once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from advrad.serving.drift.bets import SHIFTS, bets_for, most_others
from advrad.serving.drift.ranks import Bag

Floats = npt.NDArray[np.float64]

# Part of the false-alarm rate for the bound on the number of other images.
_FOR_OTHERS = 0.1


class Direction(StrEnum):
    """Where numbers went."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Change:
    """A change that the test found.

    Attributes:
        direction: Where the numbers went.
        since: Time of the first number that the evidence counts, as given to :meth:`ShiftTest.observe`; the change
            began about then.
        at: Time of the number that made the test sound.
        count: Numbers from the first to the last of these.
        strength: Mean share of the numbers before that each of these lies beyond, in [0, 1]; 0.5 without a change.
    """

    direction: Direction
    since: str
    at: str
    count: int
    strength: float


def reserve(bets: npt.ArrayLike) -> Floats:
    """The part of the stake that is kept for starts after this many bets.

    Args:
        bets: Numbers of bets, >= 0.

    Example:
        >>> reserve([0, 2, 14]).tolist()
        [1.0, 0.5, 0.25]
    """
    return np.asarray(1 / np.log2(np.asarray(bets, dtype=np.float64) + 2))


def first_stake(shape: tuple[int, ...] = ()) -> Floats:
    """Logarithm of what is bet on the first rank, for each bet.

    Args:
        shape: Further axes before that of the bets.
    """
    return np.full((*shape, len(SHIFTS)), math.log(float(reserve(0) - reserve(1))))


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


class ShiftTest:
    """A sequential test for a shift of numbers, up or down.

    Example:
        >>> test = ShiftTest(Bag(range(100, 200)), alpha=0.01, share=0.0)
        >>> sounded = [test.observe(250.0 + i, tie=0.5, at=str(i)) for i in range(20)]
        >>> [change.direction.value for changes in sounded for change in changes]
        ['higher']
    """

    def __init__(self, reference: Bag, alpha: float, share: float, *, doubtful: int = 0, fill: int = 0) -> None:
        """Begin a run.

        Args:
            reference: Numbers that are known before the run.
            alpha: Largest probability that the test ever sounds while nothing changes, in (0, 1).
            share: Largest probability with which a number is of another kind, whatever came before, in [0, 1).
            doubtful: How many numbers of the reference may be of another kind with that probability.
            fill: Numbers that join the reference before the first bet.
        """
        self.alpha, self.share, self.doubtful, self.fill = alpha, share, doubtful, fill
        self.reference = reference
        self.sounded: dict[Direction, Change] = {}
        self._bag = reference.copy()
        self._seen = self._bets = 0
        self._log_stake = first_stake((len(Direction),))
        self._recent = _Recent.empty()

    @property
    def seen(self) -> int:
        """Numbers of the run."""
        return self._seen

    @property
    def learning(self) -> int:
        """Numbers that still have to join the reference before the first bet."""
        return max(0, self.fill - self._seen)

    @property
    def limit(self) -> float:
        """Wealth at which a direction sounds."""
        return 1 / (self.alpha * (1 - _FOR_OTHERS if self.share else 1) / len(Direction))

    def evidence(self) -> dict[Direction, float]:
        """How near each direction is to sounding: 0 without evidence, 1 where it sounds."""
        worth = np.log(np.maximum(wealth(self._log_stake, self._bets), 1)) / math.log(self.limit)
        return {direction: float(min(1.0, value)) for direction, value in zip(Direction, worth, strict=True)}

    def observe(self, value: float, tie: float, at: str) -> list[Change]:
        """Take the next number.

        Args:
            value: The number, finite.
            tie: Random number in (0, 1) that was used for nothing else.
            at: Time of the number, for :class:`Change`.

        Returns:
            Changes that are found now; each direction sounds once in a run.
        """
        rank = self._bag.rank(value, tie)
        others = int(most_others(self._seen + self.doubtful, self.share, self.alpha * _FOR_OTHERS))
        slack = others / (len(self._bag) + 1)
        self._bag.add(value)
        self._seen += 1
        if self._seen <= self.fill:
            if self._seen == self.fill:
                self.reference, self.doubtful = self._bag.copy(), self.doubtful + self.fill
            return []
        return self._bet(rank, slack, at)

    def _bet(self, rank: float, slack: float, at: str) -> list[Change]:
        from scipy.special import ndtri

        score = float(ndtri(rank))
        factors = bets_for(self.share, slack).log_factors([-score, score])
        self._bets += 1
        self._log_stake = next_stake(self._log_stake, factors, self._bets)
        self._recent.add(factors, np.array([1 - rank, rank]), at)
        worth = wealth(self._log_stake, self._bets)
        found = []
        for place, direction in enumerate(Direction):
            if worth[place] >= self.limit and direction not in self.sounded:
                best = int(self._log_stake[place].argmax())
                since, count, strength = self._recent.at(place, best)
                self.sounded[direction] = Change(direction, since, at, count, strength)
                found.append(self.sounded[direction])
        return found

    def restarted(self) -> Self:
        """A new run with the same reference, without those that joined it later."""
        fill = self.fill if self.learning else 0
        doubtful = self.doubtful
        return type(self)(self.reference, self.alpha, self.share, doubtful=doubtful, fill=fill)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values, exact."""
        return {
            "alpha": self.alpha,
            "share": self.share,
            "doubtful": self.doubtful,
            "fill": self.fill,
            "reference": self.reference.to_dict(),
            "bag": self._bag.to_dict(),
            "seen": self._seen,
            "bets": self._bets,
            "log_stake": self._log_stake.tolist(),
            "recent": self._recent.to_dict(),
            "sounded": [asdict(change) for change in self.sounded.values()],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote; the run goes on as if it had never stopped.

        Args:
            values: JSON values.
        """
        test = cls(
            Bag.from_dict(values["reference"]),
            values["alpha"],
            values["share"],
            doubtful=values["doubtful"],
            fill=values["fill"],
        )
        test._bag = Bag.from_dict(values["bag"])
        test._seen, test._bets = values["seen"], values["bets"]
        test._log_stake = np.array(values["log_stake"])
        test._recent = _Recent.from_dict(values["recent"])
        changes = [Change(**one | {"direction": Direction(one["direction"])}) for one in values["sounded"]]
        test.sounded = {change.direction: change for change in changes}
        return test


@dataclass
class _Recent:
    """Since when each bet wins: its cumulative sum since that was last below zero, as in Page's test.

    Attributes:
        sums: Logarithm of what the bet won since then, (2, k).
        counts: Numbers since then, (2, k).
        beyond: Sum of the shares of earlier numbers that these lie beyond, (2, k).
        since: Time of the first of them, 2 k texts.
    """

    sums: Floats
    counts: npt.NDArray[np.int64]
    beyond: Floats
    since: list[list[str]]

    @classmethod
    def empty(cls) -> Self:
        shape = (len(Direction), len(SHIFTS))
        return cls(np.zeros(shape), np.zeros(shape, dtype=np.int64), np.zeros(shape), [[""] * shape[1]] * shape[0])

    def add(self, factors: Floats, shares: Floats, at: str) -> None:
        """Take the factors of a number, (2, k), and the shares that it lies beyond, (2,)."""
        anew = self.sums <= 0
        self.sums = np.where(anew, 0, self.sums) + factors
        self.counts = np.where(anew, 0, self.counts) + 1
        self.beyond = np.where(anew, 0, self.beyond) + shares[:, None]
        rows = zip(anew.tolist(), self.since, strict=True)
        self.since = [[at if new else old for new, old in zip(news, olds, strict=True)] for news, olds in rows]

    def at(self, direction: int, bet: int) -> tuple[str, int, float]:
        """Time of the first number, their count, and the mean share that they lie beyond."""
        count = int(self.counts[direction, bet])
        return self.since[direction][bet], count, float(self.beyond[direction, bet] / max(1, count))

    def to_dict(self) -> dict[str, Any]:
        return {
            "sums": self.sums.tolist(),
            "counts": self.counts.tolist(),
            "beyond": self.beyond.tolist(),
            "since": self.since,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        counts = np.array(values["counts"], dtype=np.int64)
        return cls(np.array(values["sums"]), counts, np.array(values["beyond"]), values["since"])
