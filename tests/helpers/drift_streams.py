"""Many streams of numbers through the test for drift at once: the same arithmetic as one by one, some hundred times as
fast, so that a rate of false alarms can be counted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from advrad.serving.drift.bets import SHIFTS, bets_for, most_others
from advrad.serving.drift.ranks import Bag, cell_of
from advrad.serving.drift.reference_bets import KINDS, ReferenceBets
from advrad.serving.drift.sequential import FOR_LOOK, FOR_OTHERS, FOR_REFERENCE
from advrad.serving.drift.stakes import first_stake, next_stake, wealth

Floats = npt.NDArray[np.float64]


def ranks(values: Floats, ties: Floats, reference: int, *, joins: bool = True) -> Floats:
    """Ranks of all but the first ``reference`` numbers of one stream.

    Args:
        values: The stream, (n,), its reference first.
        ties: Random numbers, (n - reference,).
        reference: Number of values that are known before.
        joins: Whether each number joins those that the next one is compared with. If not, the ranks are uniform one by
            one, but depend on each other.
    """
    cells = [cell_of(value) for value in values.tolist()]
    bag = sorted(cells[:reference])
    found = []
    for cell, tie in zip(cells[reference:], ties.tolist(), strict=True):
        low, high = bisect_left(bag, cell), bisect_right(bag, cell)
        found.append((len(bag) - high + tie * (high - low + 1)) / (len(bag) + 1))
        if joins:
            insort(bag, cell)
    return np.array(found)


def first_alarms(
    values: Floats, ties: Floats, reference: int, alpha: float, share: float = 0.0, *, joins: bool = True
) -> npt.NDArray[np.int64]:
    """Place of the first alarm of each stream after its reference, in either direction; -1 where there is none.

    Args:
        values: Streams, (s, n), each with its reference first.
        ties: Random numbers, (s, n - reference).
        reference: Number of values that are known before.
        alpha: Largest probability of an alarm.
        share: Largest share of other numbers.
        joins: As for :func:`ranks`; a test without it keeps no promise.
    """
    pairs = list(zip(values, ties, strict=True))
    scores = ndtri(np.array([ranks(stream, tie, reference, joins=joins) for stream, tie in pairs]))
    both = np.stack([-scores, scores], axis=-1)
    made = [ReferenceBets.of(Bag(stream[:reference].tolist()), alpha * FOR_REFERENCE, share) for stream in values]
    limits = np.stack([one.limits for one in made])
    cells = np.array([[cell_of(value) for value in stream[reference:].tolist()] for stream in values])
    among, against = first_stake((len(values), 2, len(SHIFTS))), first_stake((len(values), 2, KINDS))
    first, limit = np.full(len(values), -1), 1 / (alpha * FOR_LOOK)
    others = most_others(np.arange(both.shape[1]), share, alpha * FOR_OTHERS)
    for place in range(both.shape[1]):
        bets = bets_for(share, float(others[place]) / (reference + place + 1))
        cell = cells[:, place, None]
        beyond = np.stack([cell > limits[:, 0], cell < limits[:, 1]], axis=1)
        won = np.where(beyond[..., None], made[0].log_if, made[0].log_else).reshape(len(values), 2, KINDS)
        among = next_stake(among, bets.log_factors(both[:, place]), place + 1)
        against = next_stake(against, won, place + 1)
        sounds = (wealth(among, place + 1) >= limit) | (wealth(against, place + 1) >= limit)
        first[sounds.any(axis=1) & (first < 0)] = place
    return first
