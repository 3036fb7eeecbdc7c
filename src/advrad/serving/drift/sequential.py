"""A test that runs for ever: does a stream of numbers still look like those before?

Its false alarms are bounded over the whole run, not for each look: if nothing changes, the probability that it ever
sounds is at most ``alpha``. docs/drift.md has the proof.

The test looks twice. *Among all*: each new number is ranked among all before it, the reference and the stream, and then
joins them. While all are exchangeable, these ranks are independent and uniform, so a bet on them wins nothing on
average. (Ranks among the reference alone would not do: they share its error, and a stake would grow from that.)
*Against the reference*: numbers may exceed values of the reference only as often as its size allows. The first look
grows sharper with every number; the second never forgets.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np

from advrad.serving.drift.bets import SHIFTS, bets_for, most_others
from advrad.serving.drift.ranks import Bag
from advrad.serving.drift.reference_bets import KINDS, ReferenceBets
from advrad.serving.drift.stakes import Stakes

# Parts of the false-alarm rate: for the bound on the number of other images, for the bounds on the rates of excess, and
# for each look in each direction. They sum to 1.
FOR_OTHERS, FOR_REFERENCE, FOR_LOOK = 0.1, 0.1, 0.2


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
        self._seen = 0
        self._among_all, self._against_reference = Stakes(len(SHIFTS)), Stakes(KINDS)
        self._reference_bets = self._bets_against_reference()

    def _most_others(self, count: int) -> int:
        return int(most_others(count, self.share, self.alpha * FOR_OTHERS))

    def _bets_against_reference(self) -> ReferenceBets:
        others = self._most_others(self.doubtful)
        return ReferenceBets.of(self.reference, self.alpha * FOR_REFERENCE, self.share, others)

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
        """Wealth of a look at which a direction sounds."""
        return 1 / (self.alpha * FOR_LOOK)

    def evidence(self) -> dict[Direction, float]:
        """How near each direction is to sounding: 0 without evidence, 1 where it sounds."""
        largest = np.maximum(self._among_all.wealth(), self._against_reference.wealth())
        parts = np.clip(np.log(largest) / math.log(self.limit), 0, 1)
        return {direction: float(part) for direction, part in zip(Direction, parts, strict=True)}

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
        slack = self._most_others(self._seen + self.doubtful) / (len(self._bag) + 1)
        self._bag.add(value)
        self._seen += 1
        if self._seen > self.fill:
            return self._bet(value, rank, slack, at)
        if self._seen == self.fill:
            self.reference, self.doubtful = self._bag.copy(), self.doubtful + self.fill
            self._seen, self.fill = 0, 0
            self._reference_bets = self._bets_against_reference()
        return []

    def _bet(self, value: float, rank: float, slack: float, at: str) -> list[Change]:
        from scipy.special import ndtri

        score, beyond = float(ndtri(rank)), np.array([1 - rank, rank])
        self._among_all.advance(bets_for(self.share, slack).log_factors([-score, score]), beyond, at)
        self._against_reference.advance(self._reference_bets.log_factors(value), beyond, at)
        found = []
        for look in (self._among_all, self._against_reference):
            reached = look.wealth() >= self.limit
            for place, direction in enumerate(Direction):
                if reached[place] and direction not in self.sounded:
                    won = look.winning(place)
                    self.sounded[direction] = Change(direction, won.since, at, won.count, won.strength)
                    found.append(self.sounded[direction])
        return found

    def restarted(self) -> Self:
        """A new run with the same reference, without the numbers that joined it later."""
        return type(self)(self.reference, self.alpha, self.share, doubtful=self.doubtful, fill=self.fill)

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
            "among_all": self._among_all.to_dict(),
            "against_reference": self._against_reference.to_dict(),
            "sounded": [asdict(change) for change in self.sounded.values()],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote; the run goes on as if it had never stopped.

        Args:
            values: JSON values.
        """
        names = ("alpha", "share", "doubtful", "fill")
        test = cls(Bag.from_dict(values["reference"]), **{name: values[name] for name in names})
        test._bag, test._seen = Bag.from_dict(values["bag"]), values["seen"]
        test._among_all = Stakes.from_dict(values["among_all"])
        test._against_reference = Stakes.from_dict(values["against_reference"])
        changes = [Change(**one | {"direction": Direction(one["direction"])}) for one in values["sounded"]]
        test.sounded = {change.direction: change for change in changes}
        return test
