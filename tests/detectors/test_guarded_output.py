"""How the halves of a guarded detector become one score, one map and one verdict."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advrad.detectors.guarded_config import BEND, HalfTest
from advrad.detectors.guarded_halves import HalfOutput
from advrad.detectors.guarded_output import GradientGates, GuardedOutput, in_units, join
from advrad.detectors.guarded_tests import FAILED_MEMORY, limit, surprise

TESTS = tuple(
    HalfTest(threshold=threshold, false_alarm_rate=0.05, n=19, slope=slope, heat_low=1.0, heat_high=3.0)
    for threshold, slope in ((1.0, 0.7), (-2.0, 3.0), (10.0, 0.01))
)
CEILINGS = (-2.0, -0.3, 0.0, BEND, 1.5)
scores_of_halves = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3)


def output_of(scores: list[float], ceiling: float, failed: tuple[int, ...] = ()) -> GuardedOutput:
    """The output for one image with these scores of the halves."""
    parts = [
        HalfOutput(
            torch.tensor([0.0 if place in failed else score], dtype=torch.float64),
            torch.full((1, 1, 4, 4), score if place not in failed else 0.0),
            ("broken" if place in failed else None,),
        )
        for place, score in enumerate(scores)
    ]
    return join(parts, TESTS, ceiling, 8)[0]


def surprise_at(score: float, place: int) -> float:
    return float(surprise(torch.tensor(score), TESTS[place]))


@given(scores_of_halves, st.sampled_from(CEILINGS))
def test_the_score_is_the_largest_surprise_within_the_ceiling(scores: list[float], ceiling: float) -> None:
    output = output_of(scores, ceiling)
    limited = [float(limit(surprise(torch.tensor(scores[place]), TESTS[place]), ceiling)) for place in (1, 2)]
    assert float(output.scores) == max(surprise_at(scores[0], 0), *limited)
    speaks = [score > test.threshold for score, test in zip(scores, TESTS, strict=True)]
    assert output.defective is not None and bool(output.defective) == any(speaks)
    assert output.speaks is not None and output.speaks[0].tolist() == speaks
    assert (float(output.scores) > 0) == (any(speaks) if ceiling >= BEND else speaks[0])


@given(scores_of_halves, st.integers(0, 2), st.sampled_from([2.0**-9, 0.5, 30.0]), st.sampled_from(CEILINGS))
def test_score_and_verdict_rise_with_every_half(scores: list[float], place: int, step: float, ceiling: float) -> None:
    higher = [score + step * (index == place) for index, score in enumerate(scores)]
    low, high = output_of(scores, ceiling), output_of(higher, ceiling)
    assert float(high.scores) >= float(low.scores)
    assert low.speaks is not None and high.speaks is not None and bool((high.speaks >= low.speaks).all())
    everywhere = output_of([score + step for score in scores], ceiling)
    assert float(everywhere.scores) > float(low.scores)  # where all rise, the score does strictly
    decides = [surprise_at(scores[0], 0)]
    decides += [float(limit(surprise(torch.tensor(scores[other]), TESTS[other]), ceiling)) for other in (1, 2)]
    if decides[place] == max(decides):
        assert float(high.scores) > float(low.scores)


@given(scores_of_halves, st.sampled_from(CEILINGS), st.sets(st.integers(0, 2), min_size=1))
def test_a_half_that_failed_makes_the_image_defective(scores: list[float], ceiling: float, failed: set[int]) -> None:
    output = output_of(scores, ceiling, tuple(failed))
    assert output.defective is not None and bool(output.defective)
    assert output.half_scores is not None and output.half_scores[0].isnan().nonzero().flatten().tolist() == sorted(
        failed
    )
    assert output.errors == tuple(("broken",) if place in failed else (None,) for place in range(3))
    assert math.isfinite(float(output.scores)) and float(output.scores) >= ceiling
    if 0 in failed:
        assert float(output.scores) == max(ceiling, FAILED_MEMORY)
    else:
        assert float(output.scores) == max(ceiling, surprise_at(scores[0], 0))


@settings(deadline=None)
@given(scores_of_halves)
def test_the_map_is_at_least_that_of_the_memory_and_others_count_up_to_1(scores: list[float]) -> None:
    output = output_of(scores, 0.0)
    assert output.anomaly_maps is not None and output.anomaly_maps.shape == (1, 1, 8, 8)
    units = [(score - 1.0) / 2.0 for score in scores]
    for maps, unit in zip(output.half_maps, units, strict=True):
        assert torch.allclose(maps, torch.tensor(unit), atol=1e-4)
    whole = float(output.anomaly_maps.amax())
    assert whole >= float(output.half_maps[0].amax()) and whole <= max(float(output.half_maps[0].amax()), 1.0)
    if max(units) <= 0.9:
        assert whole == pytest.approx(max(units), abs=1e-4)


def test_a_half_without_maps_leaves_the_map_to_the_others() -> None:
    part = HalfOutput(torch.zeros(2, dtype=torch.float64), torch.full((2, 1, 8, 8), -5.0), (None, None))
    silent = HalfOutput(torch.zeros(2, dtype=torch.float64), None, (None, None))
    output, _ = join([part, silent], TESTS[:2], 0.0, 8)
    assert output.anomaly_maps is not None and torch.equal(output.anomaly_maps, in_units(part.maps, TESTS[0]))  # type: ignore[arg-type]
    assert bool((output.half_maps[1] == 0).all())
    nothing, _ = join([silent, silent], TESTS[:2], 0.0, 8)
    assert nothing.anomaly_maps is not None and bool((nothing.anomaly_maps == 0).all())


@pytest.mark.parametrize("above", [-5.0, -0.2, 0.07, 3.0, 40.0, 1e4])
@pytest.mark.parametrize("memory", [-100.0, 0.5])
def test_the_gradient_of_the_score_is_that_of_finite_differences(above: float, memory: float) -> None:
    """Also where the attackable half is far above the ceiling: small, and never 0 while it decides."""
    ceiling, step = -0.3, 1e-4
    start = (ceiling + above) / TESTS[1].slope + TESTS[1].threshold

    def score(moved: Tensor) -> Tensor:
        parts = [HalfOutput(part[None], None, (None,)) for part in moved]
        return join(parts, TESTS[:2], ceiling, 4)[0].scores[0]

    halves = torch.tensor([memory, start], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(score(halves), halves)
    for place in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[place] = step
        expected = float(score(halves.detach() + shift) - score(halves.detach() - shift)) / (2 * step)
        assert float(gradient[place]) == pytest.approx(expected, rel=1e-3, abs=1e-10)
    assert (gradient != 0).sum() == 1 and bool((gradient >= 0).all())


def test_gradients_that_are_no_numbers_do_not_leave_a_half_that_does_not_decide() -> None:
    images = torch.zeros(3, 3, 2, 2, requires_grad=True)
    gates = GradientGates()
    own = [gates.open(place, images) for place in range(2)]
    roots = own[1].sum((1, 2, 3)).sqrt()  # an infinite derivative at 0
    values = torch.stack([own[0].mean((1, 2, 3)) + torch.tensor([1.0, 1.0, -1.0]), roots])
    scores, winners = values.max(0)
    gates.close(winners)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert winners.tolist() == [0, 0, 1]
    assert torch.allclose(gradient[:2], torch.full((2, 3, 2, 2), 1 / 12))
    assert not torch.isfinite(gradient[2]).any()  # this half decides: its gradient is what it is
    with torch.no_grad():
        assert GradientGates().open(0, images) is images
