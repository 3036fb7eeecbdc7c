"""The tests of a guarded detector's halves, and the score that joins them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.detectors.guarded_config import BEND, HalfTest
from advrad.detectors.guarded_tests import (
    divide_slots,
    half_test,
    images_needed,
    kth_largest,
    limit,
    make_tests,
    p_value,
    slope_of,
    slots_of,
    surprise,
    usable_ceiling,
)
from advrad.errors import ConfigError

Floats = npt.NDArray[np.float64]
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)


# --- Slots ---


@given(st.integers(1, 3000), st.floats(0.001, 0.5), st.lists(st.floats(0.01, 1) | st.just(0.0), min_size=1, max_size=4))
def test_slots_never_exceed_the_rate(n: int, rate: float, beyond: list[float]) -> None:
    if slots_of(n, rate) < len(beyond):
        with pytest.raises(ConfigError, match="calibration images for"):
            divide_slots(n, rate, beyond)
        return
    slots = divide_slots(n, rate, beyond)
    assert min(slots) >= 1 and sum(slots) == slots_of(n, rate)
    assert sum(slots) / (n + 1) <= rate + 1e-9 / (n + 1)
    assert slots_of(n, rate) + 1 > rate * (n + 1)  # no slot is given away
    weights = beyond if any(beyond) else [1.0] + [0.0] * (len(beyond) - 1)
    rest = sum(slots) - len(slots)
    for given_, weight in zip(slots, weights, strict=True):
        assert abs(given_ - 1 - rest * weight / sum(weights)) < len(slots)
        assert weight or given_ == 1


@given(st.integers(1, 3000), st.floats(0.001, 0.5), st.integers(1, 4), st.integers(1, 3000))
def test_a_division_stays_as_it_is_when_the_number_of_images_changes(n: int, rate: float, halves: int, m: int) -> None:
    if min(slots_of(n, rate), slots_of(m, rate)) < halves:
        return
    first = divide_slots(n, rate, [0] * halves)
    assert first == (slots_of(n, rate) - halves + 1, *[1] * (halves - 1))
    again = divide_slots(m, rate, [slots - 1 for slots in first])
    assert again == divide_slots(m, rate, [0] * halves)


@given(st.floats(0.005, 0.5), st.integers(1, 4))
def test_the_number_of_images_that_is_named_is_enough_and_one_less_is_not(rate: float, halves: int) -> None:
    needed = images_needed(rate, halves)
    assert slots_of(needed, rate) >= halves and slots_of(needed - 1, rate) < halves


def test_two_halves_at_five_percent_need_39_images() -> None:
    assert images_needed(0.05, 2) == 39 and divide_slots(39, 0.05, (0.5, 0.5)) == (1, 1)
    message = (
        r"false_alarm_rate 0\.05: needs 39 calibration images for 2 tests, there are 38; .*rate of 0\.0513 or more"
    )
    with pytest.raises(ConfigError, match=message):
        divide_slots(38, 0.05, (0.5, 0.5))
    assert divide_slots(38, 0.0513, (0.5, 0.5)) == (1, 1)
    for rate in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="strictly between 0 and 1"):
            slots_of(100, rate)


# --- Thresholds, p-values, surprise ---


@given(st.lists(float32, min_size=3, max_size=40), st.integers(1, 3), float32)
def test_a_half_speaks_where_its_p_value_is_at_most_its_rate_and_its_surprise_is_above_0(
    scores: list[float], slots: int, score: float
) -> None:
    test = half_test(scores, slots)
    assert sum(one > test.threshold for one in scores) <= slots - 1
    for one in (score, test.threshold, *scores, float(np.nextafter(np.float32(test.threshold), np.float32(np.inf)))):
        speaks = one > test.threshold
        assert (p_value(test, one) <= test.false_alarm_rate) == speaks
        assert bool(surprise(torch.tensor(one), test) > 0) == speaks  # a float32 score, as detectors give it
        assert bool(surprise(torch.tensor(one, dtype=torch.float64), test) > 0) == speaks


def test_surprise_keeps_the_sign_of_the_smallest_differences() -> None:
    for scale in (1e-30, 1.0, 1e6):
        values = [float(np.float32(scale * factor)) for factor in (0.5, 1.0, 1.0)]
        test = half_test(values, 1)
        above = torch.nextafter(torch.tensor(test.threshold), torch.tensor(torch.inf))
        below = torch.nextafter(torch.tensor(test.threshold), torch.tensor(-torch.inf))
        found = surprise(torch.stack([below, torch.tensor(test.threshold), above]), test)
        assert found.sign().tolist() == [-1, 0, 1]


def test_the_surprise_is_that_of_an_exponential_tail() -> None:
    """Half of the images exceed the median; each further ``log 2 / slope`` halves the share again."""
    n, rate = 4000, 0.05
    scores = np.random.default_rng(0).exponential(2.0, n)
    test = half_test(scores, slots_of(n, rate))
    assert test.slope == pytest.approx(1 / 2.0, rel=0.05)
    value = float(surprise(torch.tensor(test.threshold + 3.0), test))
    share = rate * math.exp(-value)
    assert share == pytest.approx(math.exp(-(test.threshold + 3.0) / 2.0), rel=0.25)


@given(st.lists(finite, min_size=3, max_size=30), st.floats(0.001, 0.9))
def test_the_slope_is_a_positive_number_whatever_the_scores(scores: list[float], rate: float) -> None:
    slope = slope_of(scores, kth_largest(scores, 1), rate)
    assert 0 < slope < math.inf


def test_constant_scores_make_a_test_that_can_be_stored() -> None:
    test = half_test([0.0] * 40, 1, maxima=[0.0] * 40)
    assert HalfTest.parse(test.model_dump(mode="json")) == test and test.heat_high > test.heat_low
    assert bool(surprise(torch.tensor(1e-3), test) > 0)


def test_scores_that_are_no_numbers_and_too_few_scores_are_refused() -> None:
    for broken in (math.nan, math.inf):
        with pytest.raises(ConfigError, match="not a finite number"):
            half_test([1.0, broken], 1)
        with pytest.raises(ConfigError, match="not a finite number"):
            half_test([1.0, 2.0], 1, maxima=[1.0, broken])
    with pytest.raises(ConfigError, match="2 slots do not suit the 1 scores"):
        half_test([1.0, 2.0], 2, counted=np.array([True, False]))


def test_heat_maps_glow_from_the_median_to_the_threshold_of_the_maxima() -> None:
    test = half_test(list(range(39)), 2, maxima=list(range(100, 139)))
    assert test.heat_low == 119 and test.heat_high == pytest.approx(137, abs=0.01)


# --- The false-alarm rate ---


def draws_of(rng: np.random.Generator, count: int, n: int, correlation: float) -> tuple[Floats, Floats]:
    """Scores of a memory and another half, (count, n + 1) each, correlated; the last column is the new image."""
    common, first, second = rng.standard_normal((3, count, n + 1))
    weight = math.sqrt(correlation)
    rest = math.sqrt(1 - correlation)
    return weight * common + rest * first, weight * common + rest * second


def alarm_rate(memory: Floats, other: Floats, slots: tuple[int, int], *, leaves_one_out: bool) -> float:
    """Share of new images that any half calls defective."""
    alarms = 0
    for one, two in zip(memory, other, strict=True):
        tests = make_tests([one[:-1], two[:-1]], [(), ()], slots, leaves_one_out=leaves_one_out)
        alarms += one[-1] > tests[0].threshold or two[-1] > tests[1].threshold
    return alarms / len(memory)


@pytest.mark.parametrize("leaves_one_out", [True, False])
@pytest.mark.parametrize("correlation", [0.0, 0.8, 1.0])
def test_normal_images_are_called_defective_at_the_promised_rate_at_most(
    correlation: float, leaves_one_out: bool
) -> None:
    runs, n, rate = 3000, 39, 0.1
    memory, other = draws_of(np.random.default_rng(1), runs, n, correlation)
    slots = divide_slots(n, rate, (0.5, 0.5))
    found = alarm_rate(memory, other, slots, leaves_one_out=leaves_one_out)
    error = math.sqrt(rate * (1 - rate) / runs)
    assert found <= rate + 3 * error
    if not leaves_one_out:  # the better split uses the whole rate, whatever the correlation
        assert found >= rate - 4 * error
    # One slot more would break the promise, and this test would see it.
    more = alarm_rate(memory, other, (slots[0] + 1, slots[1] + 1), leaves_one_out=False)
    assert more > rate + 3 * error


def test_the_better_split_lowers_thresholds_only_where_the_memory_speaks_too() -> None:
    rng = np.random.default_rng(2)
    memory, other = (part[0] for part in draws_of(rng, 1, 99, 0.9))
    plain, better = (make_tests([memory, other], [(), ()], (3, 3), leaves_one_out=way) for way in (True, False))
    assert plain[0] == better[0] and better[1].threshold < plain[1].threshold
    # Its p-values count the images that are left out among the n, and not among the larger scores.
    assert better[1].n == 100 and len(better[1].scores) == 100 - int((memory > better[0].threshold).sum())
    speaks = other > better[1].threshold
    assert [p_value(better[1], score) <= better[1].false_alarm_rate for score in other] == speaks.tolist()


def test_the_better_split_is_refused_where_the_memory_leaves_images_out_one_by_one() -> None:
    scores = [float(value) for value in range(40)]
    kept = make_tests([scores, scores], [(), ()], (1, 1), leaves_one_out=True)
    assert kept[1].threshold == 39.0 and len(kept[1].scores) == 40
    assert make_tests([scores, scores], [(), ()], (2, 1), leaves_one_out=False)[1].threshold == 38.0
    assert make_tests([scores, scores], [(), ()], (2, 1), leaves_one_out=True)[1].threshold == 39.0


# --- The score ---


@given(finite, st.floats(-5, 5))
def test_the_limit_leaves_what_is_below_and_stays_at_or_below_the_ceiling(value: float, ceiling: float) -> None:
    found = float(limit(torch.tensor(value, dtype=torch.float64), ceiling))
    assert found <= ceiling
    if value <= ceiling - BEND:
        assert found == value


@given(st.floats(-20, 1e4), st.floats(1e-3, 10), st.floats(-3, 3))
def test_the_limit_rises_strictly(value: float, step: float, ceiling: float) -> None:
    low, high = limit(torch.tensor([value, value + step], dtype=torch.float64), ceiling)
    assert high > low


@settings(deadline=None)
@given(st.floats(-3, 3), st.sampled_from([-2.0, -1e-3, 0.0, 1e-3, 0.05, 1.0, 50.0, 1e5]))
def test_the_gradient_of_the_limit_is_that_of_finite_differences_and_never_0(ceiling: float, above: float) -> None:
    value = torch.tensor(ceiling - BEND + above, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(limit(value, ceiling), value)
    step = 1e-6 * max(1.0, abs(above))
    ends = limit(torch.stack([value.detach() - step, value.detach() + step]), ceiling)
    assert float(gradient) > 0
    if above <= 50:
        assert float(gradient) == pytest.approx(float(ends[1] - ends[0]) / (2 * step), rel=1e-4, abs=1e-9)


def test_a_ceiling_just_above_0_would_hide_who_speaks() -> None:
    assert [usable_ceiling(value) for value in (-1.0, 0.0, 0.05, BEND, 0.3)] == [-1.0, 0.0, 0.0, BEND, 0.3]
    for ceiling in (-1.0, 0.0, BEND, 0.3, 2.0):
        values = torch.tensor([-1e-9, 0.0, 1e-9, 1e9], dtype=torch.float64)
        found = limit(values, ceiling) > 0
        expected = values > 0 if ceiling >= BEND else torch.zeros(4, dtype=torch.bool)
        assert torch.equal(found, expected)
