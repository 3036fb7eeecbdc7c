"""How the ceiling of a guarded detector is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from advrad.training.guard_choice import KEPT, Judged, Tail, choose_ceiling


def judged(
    memory_shift: float, other_shift: float, margin: float = 0.5, *, normals: int = 40, defects: int = 64, seed: int = 0
) -> Judged:
    """Exponential scores of normal images; those of defects lie higher. Bounds are ``margin`` away."""
    draws = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [normals, defects])
    memory = draws.exponential(size=len(labels)) + memory_shift * labels
    other = draws.exponential(size=len(labels)) + other_shift * labels
    return Judged(labels, memory, memory - margin, memory + margin, other[None])


def test_a_tail_extrapolates_beyond_the_images() -> None:
    scores = np.random.default_rng(0).exponential(2.0, 4000)
    tail = Tail.of(scores)
    for rate in (0.05, 0.01, 0.002):
        assert (scores > tail.threshold(rate)).mean() == pytest.approx(rate, rel=0.5)
        assert tail.surprise(np.array([tail.threshold(rate)]), rate)[0] == pytest.approx(0, abs=1e-9)


def test_a_tail_of_equal_scores_has_a_slope() -> None:
    assert np.isfinite(Tail.of(np.ones(5)).threshold(0.01)) and Tail.of(np.zeros(5)).slope > 0


def test_the_ceiling_keeps_the_certified_auroc_of_a_memory_that_has_one() -> None:
    images = judged(2.5, 6.0, margin=0.3)
    winner, tried = choose_ceiling(images, (0.04, 0.01))
    assert images.certified >= 0.5
    assert winner.certified >= images.certified - KEPT
    # A ceiling above 0 would lose it, and has the better clean AUROC.
    high = tried[-1]
    assert high.value == 0.3 and high.certified < images.certified - KEPT and high.clean > winner.clean


def test_the_clean_auroc_alone_counts_where_nothing_is_certified() -> None:
    images = judged(0.3, 6.0, margin=2.0)
    assert images.certified <= KEPT
    winner, tried = choose_ceiling(images, (0.01, 0.04))
    assert winner.clean >= max(one.clean for one in tried) - 0.002
    assert winner.clean > 0.95


def test_what_little_is_certified_is_kept() -> None:
    images = judged(1.0, 6.0, margin=0.7)
    assert KEPT < images.certified < 0.5
    winner, tried = choose_ceiling(images, (0.02, 0.03))
    assert winner.certified >= images.certified - KEPT
    assert any(one.certified < images.certified - KEPT and one.clean > winner.clean for one in tried)


def test_ties_go_to_the_lowest_ceiling() -> None:
    winner, tried = choose_ceiling(judged(50.0, 50.0), (0.04, 0.01))
    assert winner == tried[0] and winner.clean == 1


def test_no_ceiling_lies_where_the_score_would_be_neither_verdict() -> None:
    for seed in range(5):
        _, tried = choose_ceiling(judged(1.0, 1.0, margin=1.5, seed=seed), (0.03, 0.02))
        assert all(not 0 < one.value < 0.1 for one in tried)
        assert [one.value for one in tried] == sorted(one.value for one in tried)


def test_a_lower_ceiling_is_taken_where_the_median_loses_too_much() -> None:
    # Half of the defects are certain only against the lower half of the normal images.
    labels = np.repeat([0, 1], 40)
    memory = np.concatenate([np.linspace(0, 4, 40), np.linspace(1.0, 2.2, 20), np.full(20, 9.0)])
    images = Judged(labels, memory, memory, memory, np.random.default_rng(0).normal(size=(1, 80)))
    assert images.certified >= 0.5
    winner, _ = choose_ceiling(images, (0.04, 0.01))
    assert winner.certified >= images.certified - KEPT


def test_upper_bounds_may_be_infinite() -> None:
    images = judged(2.0, 2.0)
    infinite = Judged(images.labels, images.memory, images.lower, np.full_like(images.upper, np.inf), images.others)
    winner, tried = choose_ceiling(infinite, (0.04, 0.01))
    assert [one.value for one in tried] == [0.3] and winner.certified == 0 and np.isfinite(winner.clean)
