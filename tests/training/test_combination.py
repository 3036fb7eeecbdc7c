"""The choice between the closed form, the learned denoiser, and both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.training.combination import LEARNED, MEMORY, Candidate, HeldOut, choose_combination

NORMALS, ANOMALOUS = 30, 60


def held_out(memory: float, learned: float, seed: int = 0, reach: float = 0.3) -> HeldOut:
    """Scores of two detectors whose anomalous scores lie this many spreads above the normal ones, independently."""
    draws = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [NORMALS, ANOMALOUS])
    scores = [draws.normal(shift * labels, 1.0) for shift in (memory, learned)]
    return HeldOut(labels, *scores, scores[0] - reach, scores[0] + reach)


def test_two_that_see_different_defects_are_combined() -> None:
    compared = held_out(2.0, 2.0)
    chosen = choose_combination(compared, 1.0, robust=False)
    assert chosen.candidate.memory and chosen.candidate.weight > 0
    assert compared.clean(chosen.candidate) > max(compared.clean(MEMORY), compared.clean(LEARNED))
    assert chosen.reason.startswith("both together: AUROC ") and "\n" not in chosen.reason


def test_a_tie_goes_to_the_closed_form_alone() -> None:
    compared = held_out(8.0, 8.0)
    assert compared.clean(MEMORY) == compared.clean(LEARNED) == 1.0
    for robust in (False, True):
        assert choose_combination(compared, 1.0, robust=robust).candidate == MEMORY


def test_a_learned_denoiser_that_sees_nothing_is_left_out() -> None:
    assert choose_combination(held_out(2.0, 0.0), 1.0, robust=False).candidate == MEMORY


def test_a_closed_form_that_is_worse_is_noticed() -> None:
    compared = held_out(0.3, 4.0)
    chosen = choose_combination(compared, 1.0, robust=False)
    assert compared.clean(chosen.candidate) >= compared.clean(LEARNED) - 0.01
    assert "the closed form is worse than the learned denoiser here" in chosen.reason
    robust = choose_combination(compared, 1.0, robust=True)
    assert robust.candidate != LEARNED
    assert "the closed form is worse than the learned denoiser here" in robust.reason
    assert "worse" not in choose_combination(held_out(4.0, 0.3), 1.0, robust=False).reason


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 4), st.floats(0, 4), st.floats(0, 2), st.integers(0, 99))
def test_robust_never_lowers_what_is_certified(memory: float, learned: float, reach: float, seed: int) -> None:
    compared = held_out(memory, learned, seed, reach)
    chosen = choose_combination(compared, 1.0, robust=True)
    assert compared.certified(chosen.candidate) >= compared.certified(MEMORY)
    # Whatever the learned score is made to be, every certified pair keeps its order.
    worst = np.where(compared.labels == 1, -1e6, 1e6)
    attacked = HeldOut(
        compared.labels,
        np.where(compared.labels == 1, compared.lower, compared.upper),
        worst,
        compared.lower,
        compared.upper,
    )
    assert attacked.clean(chosen.candidate) >= compared.certified(MEMORY)


def test_robust_uses_the_learned_score_where_it_costs_nothing() -> None:
    # Equal scores of the closed form, which the learned one orders; the certified pairs are far apart.
    labels = np.repeat([0, 1], [20, 40])
    memory = np.where(np.arange(60) < 40, 0.0, 10.0)
    learned = np.where(labels == 1, 5.0, 0.0)
    compared = HeldOut(labels, memory, learned, memory - 1, memory + 1)
    chosen = choose_combination(compared, 1.0, robust=True)
    assert chosen.candidate.weight > 0
    assert compared.certified(chosen.candidate) == compared.certified(MEMORY) > 0
    assert compared.clean(chosen.candidate) == 1.0 > compared.clean(MEMORY)


def test_every_candidate_is_listed_once_best_first() -> None:
    tried = choose_combination(held_out(1.0, 1.0), 1.0, robust=False).tried
    names = [name for name, _ in tried]
    assert len(names) == len(set(names)) and {"memory alone", "learned alone"} <= set(names)
    assert [value for _, value in tried] == sorted((value for _, value in tried), reverse=True)


def test_the_score_of_a_candidate() -> None:
    memory, learned = np.array([1.0, 2.0]), np.array([-9.0, 3.0])
    assert MEMORY.scores(memory, learned).tolist() == [1.0, 2.0]
    assert LEARNED.scores(memory, learned).tolist() == [-9.0, 3.0]
    assert Candidate(True, 0.5, 0.0, 2.0).scores(memory, learned) == pytest.approx([1.0, 3.0])
