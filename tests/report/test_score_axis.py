"""Scale and bins of a plot of scores: whatever the scores are, what can be told apart is told apart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advrad.report.score_axis import ScoreBins

FINITE = st.floats(allow_nan=False, allow_infinity=False)
CLOSE = st.floats(-3, 3).map(lambda value: round(value, 2))
SCORES = st.lists(st.tuples(st.booleans(), FINITE | CLOSE), min_size=1, max_size=30)


def bins_of(rows: list[tuple[bool, float]], threshold: float | None) -> tuple[np.ndarray, np.ndarray, ScoreBins]:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return labels, scores, ScoreBins.of(labels, scores, threshold)


@settings(max_examples=300, deadline=None)
@given(SCORES, st.none() | FINITE | CLOSE)
@example([(False, 0.0)], None)
@example([(False, 1.0), (True, np.nextafter(1.0, 2.0))], 1.0)
@example([(False, 1.0), (True, np.nextafter(1.0, 2.0)), (True, 1e9)], None)
@example([(False, 0.0), (True, 5e-324), (True, 1.7e308), (False, -1.7e308)], 0.0)
@example([(True, 0.1), (False, 0.2)], 5.0)
@example([(False, 0.0), (False, 1e16), (True, -1.0)], 0.0)
@example([(False, 0.0), (True, 1e-16), (True, 1.0)], -1.0)
@example([(False, 9e307), (False, 9.1e307)], None)
def test_images_on_two_sides_never_share_a_bin(rows: list[tuple[bool, float]], threshold: float | None) -> None:
    labels, scores, found = bins_of(rows, threshold)
    assert (np.diff(found.edges) >= 0).all() and np.isfinite(found.edges).all() and len(found.edges) <= 40
    assert found.counts(labels).sum() + found.counts(~labels).sum() == len(rows), "every image is in a bin"
    order = np.argsort(scores, kind="stable")
    assert (np.diff(found.bins[order]) >= 0).all(), "a higher score is never further left"
    if threshold is not None:
        edge = found.threshold_edge
        assert edge is not None and 0 < edge < len(found.edges) - 1, "both sides of the threshold are on the axis"
        np.testing.assert_array_equal(found.bins >= edge, scores > threshold)
    else:
        assert found.threshold_edge is None
    below, above = scores[~labels], scores[labels]
    if below.size and above.size and (below.max() < above.min() or above.max() < below.min()):
        assert not (found.counts(labels) * found.counts(~labels)).any(), "the classes part, so no bin holds both"


@settings(max_examples=200, deadline=None)
@given(SCORES, st.none() | CLOSE)
@example([(False, 0.1), (True, 900.0)], 0.3)
@example([(False, -1.7e308), (True, 1.7e308)], None)
def test_the_numbers_on_the_axis_are_where_they_belong(rows: list[tuple[bool, float]], threshold: float | None) -> None:
    _, _, found = bins_of(rows, threshold)
    ticks = found.ticks()
    assert 1 <= len(ticks) <= 12 and len({text for _, text in ticks}) == len(ticks)
    for place, text in ticks:
        assert found.edges[0] <= place <= found.edges[-1]
        assert place == found.scale.places(float(text))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-5, 5),
    st.floats(0, 6),
    st.integers(2, 60),
    st.floats(-1000, 1000),
)
def test_good_defective_and_threshold_are_seen_apart(
    seed: int, size: float, spread: float, count: int, shift: float
) -> None:
    """Whatever the size of the scores and however far the anomalous ones reach: distances are seen on the axis."""
    rng = np.random.default_rng(seed)
    normal = shift + 10.0**size * rng.normal(0, 0.2, count)
    anomalous = shift + 10.0**size * (2 + 10.0 ** rng.uniform(0, spread, count))
    threshold = shift + 10.0**size
    labels = np.repeat([False, True], count)
    found = ScoreBins.of(labels, np.append(normal, anomalous), threshold)
    marks = found.scale.places([np.median(normal), threshold, np.median(anomalous)])
    assert np.diff(marks).min() > 0.05 * (found.edges[-1] - found.edges[0])


def test_a_linear_axis_stays_where_it_is_good_enough() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([False, True], 50)
    narrow = np.append(rng.normal(0, 1, 50), rng.normal(4, 1, 50))
    assert ScoreBins.of(labels, narrow, 2.0).scale.linear
    wide = np.append(rng.normal(0, 1, 50), 4 + rng.lognormal(2, 2, 50))
    assert not ScoreBins.of(labels, wide, 2.0).scale.linear
    one = np.geomspace(1e-6, 1e6, 50)
    assert not ScoreBins.of(labels[:50], one, None).scale.linear
    assert ScoreBins.of(labels, np.ones(100), 1.0).scale.linear


@pytest.mark.parametrize("shift", [-1e6, -1.0, 0.0, 1e6])
def test_negative_scores_are_like_others(shift: float) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([False, True], 40)
    scores = np.append(rng.integers(0, 64, 40), rng.integers(100, 160, 40)) / 64.0
    expected = ScoreBins.of(labels, scores, 1.25)
    found = ScoreBins.of(labels, scores + shift, 1.25 + shift)
    np.testing.assert_array_equal(found.bins, expected.bins)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 70.0), (999.5, 1000.5), (1e-7, 3e-7)])
def test_numbers_on_a_linear_axis_are_round_and_even(low: float, high: float) -> None:
    scores = np.linspace(low, high, 60)
    found = ScoreBins.of(scores > (low + high) / 2, scores, (low + high) / 2)
    values = np.array([float(text) for _, text in found.ticks()])
    assert len(values) >= 3
    np.testing.assert_allclose(np.diff(values), np.diff(values)[0], rtol=1e-6)
    step = np.diff(values)[0]
    assert np.isclose(step / 10.0 ** np.floor(np.log10(step) + 1e-9), [1, 2, 5, 10], rtol=1e-6).any()


@pytest.mark.parametrize(("count", "bins"), [(4, 10), (100, 20), (5000, 32)])
def test_the_number_of_bins_follows_the_number_of_images(count: int, bins: int) -> None:
    scores = np.linspace(0, 1, count)
    found = ScoreBins.of(scores > 0.5, scores, 0.5)
    assert bins <= len(found.edges) - 1 <= bins + 2
