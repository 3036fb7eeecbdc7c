from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from advrad.serving.drift.bets import SHIFTS, bets_for, most_others
from advrad.utils.seeding import numpy_generator_for


def worst_means(share: float, slack: float, points: int = 200_000) -> np.ndarray:
    """Mean factor of each bet where all that is allowed works for it: every normal rank is moved by the slack, and the
    other images have the best rank that there is."""
    uniform = (np.arange(points) + 0.5) / points
    moved = np.maximum(uniform - slack, 1e-15)
    bets = bets_for(share, slack)
    normal = np.exp(bets.log_factors(-ndtri(moved))).mean(axis=0)
    other = np.exp(bets.log_factors(40.0))
    return np.asarray((1 - share) * normal + share * other)


@pytest.mark.parametrize(
    ("share", "slack"), [(0.0, 0.0), (0.0, 0.1), (0.01, 0.02), (0.05, 0.05), (0.05, 0.3), (0.05, 0.7), (0.3, 0.5)]
)
def test_no_bet_wins_on_average_whatever_the_others_do(share: float, slack: float) -> None:
    assert (worst_means(share, slack) <= 1 + 1e-4).all()


def test_the_bets_waste_little_of_what_is_allowed() -> None:
    assert (worst_means(0.05, 0.05) > 0.999).all(), "else bets could be larger"


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_bet_on_a_shift_wins_where_it_happens(shift: float) -> None:
    scores = numpy_generator_for(0, shift).normal(size=20_000) + shift
    growth = bets_for(0.02, 0.02).log_factors(scores).mean(axis=0)
    assert growth.argmax() == SHIFTS.index(shift) and growth.max() > 0.05


def test_a_bet_against_itself_loses() -> None:
    scores = numpy_generator_for(1).normal(size=20_000)
    assert (bets_for(0.0, 0.0).log_factors(scores).mean(axis=0) < 0).all()


def test_factors_never_rise_with_the_share_of_larger_values() -> None:
    scores = np.linspace(-9, 9, 400)
    for share, slack in ((0.0, 0.0), (0.05, 0.1)):
        assert (np.diff(bets_for(share, slack).log_factors(scores), axis=0) >= 0).all()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_number_of_others_is_bounded_for_all_counts_at_once(share: float) -> None:
    alpha, streams, length = 0.05, 2000, 2000
    others = (numpy_generator_for(2, share).random((streams, length)) < share).cumsum(axis=1)
    failed = (others > most_others(np.arange(1, length + 1), share, alpha)).any(axis=1).mean()
    assert failed <= alpha


def test_the_bound_on_others_is_not_idle() -> None:
    """A bound that holds for each count alone fails for some count of many streams."""
    counts = np.arange(1, 2001)
    others = (numpy_generator_for(3).random((2000, 2000)) < 0.05).cumsum(axis=1)
    singly = 0.05 * counts + 1.65 * np.sqrt(0.05 * 0.95 * counts) + 1
    assert (others > singly).any(axis=1).mean() > 0.05
    assert (most_others(counts, 0.05, 0.05) <= counts).all()
    assert most_others(10, 0.0, 0.01) == 0
