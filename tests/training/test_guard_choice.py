"""How the slots and the ceiling of a guarded detector are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from advrad.training.guard_choice import KEPT, Judged, Tail, choose_ceiling, choose_division, divisions

N = 99


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


@pytest.mark.parametrize(("total", "halves", "count"), [(2, 2, 1), (5, 2, 4), (5, 3, 6), (3, 3, 1)])
def test_every_division_gives_each_half_a_slot_and_uses_all(total: int, halves: int, count: int) -> None:
    found = list(divisions(total, halves))
    assert len(found) == len(set(found)) == count
    assert all(len(slots) == halves and sum(slots) == total and min(slots) >= 1 for slots in found)
    assert found[0][0] == total - halves + 1


def test_a_sharp_other_half_gets_slots_only_where_the_memory_keeps_what_is_certain() -> None:
    # The memory sees nothing that could be proven, so the other half may have most of the slots.
    blind, tried = choose_division(judged(0.0, 3.2, margin=9.0), 5, N)
    assert blind.slots[1] > 1 and len(tried) == 4
    assert blind.found == max(one.found for one in tried) or blind.found >= max(one.found for one in tried) - 0.011
    # Here defects are certain just below the memory's threshold, and every slot counts.
    images = judged(3.0, 3.2, margin=0.2)
    sharp, tried = choose_division(images, 5, N)
    alone = (images.lower[images.defects] > Tail.of(images.memory[~images.defects]).threshold(0.05)).mean()
    assert sharp.certain >= alone - KEPT or sharp.slots == (4, 1)


def test_a_gain_within_the_error_of_few_defects_leaves_the_slots_to_the_memory() -> None:
    few = choose_division(judged(1.5, 2.0, margin=9.0, defects=12, seed=0), 5, N)
    many = choose_division(judged(1.2, 2.6, margin=9.0, defects=4000, seed=3), 5, N)
    assert few[0].slots == (4, 1) and few[0].found < max(one.found for one in few[1])
    assert many[0].slots != (4, 1) and many[0].found >= max(one.found for one in many[1]) - 0.011


def test_equal_divisions_leave_the_slots_to_the_memory() -> None:
    winner, _ = choose_division(judged(50.0, 0.0), 5, N)
    assert winner.slots == (4, 1) and winner.found == winner.certain == 1


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
