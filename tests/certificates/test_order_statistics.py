"""Bounds of a quantile from samples: ranks against exact sums, the lemma against exact shifts, radii against ART."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from itertools import accumulate, pairwise
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from advrad.certificates.order_statistics import (
    FIRST_SIZE,
    binary_radius,
    bounds,
    futility,
    interim_sizes,
    levels,
    rank_above,
    rank_below,
    samples_needed,
)
from advrad.errors import ConfigError

Floats = npt.NDArray[np.float64]

# --- ranks ----------------------------------------------------------------------------------------------------------


def at_most(n: int, level: float) -> list[Fraction]:
    """P(Bin(n, level) <= k) for k = 0, ..., n, exactly."""
    p = Fraction(level)
    return list(accumulate(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)))


@pytest.mark.parametrize("level", [0.021, 0.158, 0.5, 0.77, 0.999])
def test_ranks_are_those_of_exact_sums_for_every_n(level: float) -> None:
    for n in range(1, 61):
        tails = at_most(n, level)
        for alpha in (1e-6, 1e-3, 0.02, 0.3):
            # The k-th smallest lies above the quantile with P(Bin <= k - 1), and below it with P(Bin >= k).
            good_below = [k for k in range(1, n + 1) if tails[k - 1] <= alpha]
            good_above = [k for k in range(1, n + 1) if 1 - tails[k - 1] <= alpha]
            assert rank_below(n, level, alpha) == max(good_below, default=None), (n, alpha)
            assert rank_above(n, level, alpha) == min(good_above, default=None), (n, alpha)
            # The ranks that will do have no gaps, so one further is one too far.
            assert good_below == list(range(1, len(good_below) + 1))
            assert good_above == list(range(n + 1 - len(good_above), n + 1))


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("off", [0, 1])
def test_a_bound_fails_with_alpha_and_more_often_one_rank_further(discrete: bool, off: int) -> None:
    n, level, alpha, runs = 40, 0.3, 0.05, 20_000
    scores = np.random.default_rng(0).random((runs, n))
    low, high = level, level  # the quantile of uniform samples
    if discrete:
        # Two values that tie; a quantile is the smallest value reached with this probability, so it is 0 up to 0.3.
        scores = (scores > level).astype(float)
        low = high = 0.0
    below, above = rank_below(n, level, alpha), rank_above(n, level, alpha)
    assert below is not None and above is not None
    scores.sort(1)
    too_high = np.mean(scores[:, below + off - 1] > low)
    too_low = np.mean(scores[:, above - off - 1] < high)
    noise = 4 * math.sqrt(alpha / runs)
    np.testing.assert_allclose(too_high, binom.cdf(below + off - 1, n, level), atol=noise)
    if discrete:
        assert too_low == 0  # nothing lies below the smallest value
    else:
        np.testing.assert_allclose(too_low, binom.sf(above - off - 1, n, level), atol=noise)
    worst = max(too_high, too_low)
    assert worst <= alpha + noise if off == 0 else worst > alpha + noise


@settings(max_examples=60, deadline=None)
@given(shift=st.floats(0, 3.5), alpha=st.floats(1e-9, 0.4), quantile=st.floats(0.2, 0.8))
def test_samples_needed_is_the_smallest_number_that_bounds_both_sides(
    shift: float, alpha: float, quantile: float
) -> None:
    at = levels(shift, quantile)

    def enough(n: int) -> bool:
        return None not in (rank_below(n, at.low, alpha), rank_above(n, at.high, alpha))

    needed = samples_needed(shift, alpha, quantile)
    assert enough(needed)
    assert needed == 1 or not enough(needed - 1)


def test_the_sample_sizes_in_docs_certificates() -> None:
    needed = [samples_needed(shift, 0.001 / 200) for shift in (1, 1.5, 2, 2.5, 3)]
    assert needed == [71, 177, 531, 1960, 9037]


def test_a_shift_beyond_any_number_of_samples_is_refused() -> None:
    assert samples_needed(5, 1e-3) < 1e9
    for shift in (6.5, 40.0, math.inf):
        with pytest.raises(ConfigError, match="cannot be certified with any number of samples"):
            samples_needed(shift, 1e-3)


# --- the lemma ------------------------------------------------------------------------------------------------------


def quantile_of(edges: Floats, values: Floats, centre: float, level: float) -> float:
    """Smallest value that a step function of normal noise about ``centre`` reaches with this probability."""
    cuts = norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) - centre)
    order = np.argsort(values)
    reached = np.cumsum(np.diff(cuts)[order])
    return float(values[order][np.argmax(reached >= level - 1e-12)])


@settings(max_examples=200, deadline=None)
@given(
    edges=st.lists(st.floats(-4, 4), min_size=1, max_size=8, unique=True),
    seed=st.integers(0, 10**6),
    shift=st.floats(0, 2.5),
    share=st.floats(-1, 1),
    quantile=st.floats(0.1, 0.9),
)
def test_no_shift_moves_a_quantile_of_a_step_function_out_of_its_bounds(
    edges: list[float], seed: int, shift: float, share: float, quantile: float
) -> None:
    ordered = np.sort(edges)
    # Few values, so that there are ties.
    values = np.random.default_rng(seed).integers(0, 4, len(edges) + 1).astype(float)
    at = levels(shift, quantile)
    moved = quantile_of(ordered, values, share * shift, quantile)
    # Where a quantile jumps at this very level, rounding decides; a tiny margin lets both sides count.
    tiny = 1e-9
    assert moved >= quantile_of(ordered, values, 0, at.low - tiny)
    assert moved <= quantile_of(ordered, values, 0, min(at.high + tiny, 1))


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.9])
def test_a_half_space_attains_the_levels(quantile: float) -> None:
    # The score is the noised number itself, so its quantile moves by as much as the number does.
    at = levels(1.3, quantile)
    assert norm.ppf(at.low) == pytest.approx(norm.ppf(quantile) - 1.3)
    assert norm.ppf(at.high) == pytest.approx(norm.ppf(quantile) + 1.3)
    assert levels(0, quantile).low == levels(0, quantile).high == pytest.approx(quantile)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_bounds_of_a_noisy_number_are_tight_and_fail_with_alpha() -> None:
    # Score: the noised number 2 + 0.5 eps. The worst smoothed scores within 0.4 are 1.6 and 2.4, known exactly.
    rng, shift, alpha, n, runs = np.random.default_rng(1), 0.4 / 0.5, 0.05, 60, 3000
    scores = 2 + 0.5 * rng.normal(size=(runs, 1, n))
    found = np.array([bounds(row, row, [shift], alpha) for row in scores])
    missed = np.mean(found[:, 0] > 1.6), np.mean(found[:, 1] < 2.4)
    rank = rank_below(n, levels(shift).low, alpha)
    exact = binom.cdf(rank - 1, n, levels(shift).low)
    assert exact <= alpha
    np.testing.assert_allclose(missed, exact, atol=4 * math.sqrt(alpha / runs))
    many = 2 + 0.5 * rng.normal(size=(1, 200_000))
    np.testing.assert_allclose(bounds(many, many, [shift], 1e-3), (1.6, 2.4), rtol=0.01)


def test_bounds_of_a_distance_in_a_plane_hold_for_its_worst_direction() -> None:
    # Score: distance of a noised point of the plane from the origin; nearest and farthest centre are the worst.
    rng, sigma, radius = np.random.default_rng(2), 0.7, 0.5
    x = np.array([1.2, -0.9])
    away = radius * x / np.linalg.norm(x)

    def draw(centre: Floats, count: int) -> Floats:
        return np.linalg.norm(centre + sigma * rng.normal(size=(count, 2)), axis=1)[None]

    least, most = (float(np.median(draw(x + side * away, 400_000))) for side in (-1, 1))
    missed = [0, 0]
    for _ in range(300):
        scores = draw(x, 200)
        low, high = bounds(scores, scores, [radius / sigma], 0.05)
        missed[0] += low > least
        missed[1] += high < most
    assert max(missed) <= 300 * 0.05 + 4 * math.sqrt(300 * 0.05)


def test_parts_are_averaged_and_share_alpha() -> None:
    scores = np.random.default_rng(3).normal(size=(2, 300))
    wider = scores + 0.5
    low, high = bounds(scores, wider, [0.3, 0.9], 0.02)
    parts = [bounds(scores[part, None], wider[part, None], [shift], 0.01) for part, shift in enumerate([0.3, 0.9])]
    assert (low, high) == tuple(np.mean(parts, axis=0))


def test_one_part_with_too_few_samples_leaves_no_bound() -> None:
    scores = np.random.default_rng(4).normal(size=(2, 50))
    assert bounds(scores, scores, [0.1, 3.0], 0.01) == (-math.inf, math.inf)
    low, high = bounds(scores, scores, [0.1, 0.1], 0.01)
    assert math.isfinite(low) and math.isfinite(high)


def test_bounds_widen_with_the_shift_and_narrow_with_the_samples() -> None:
    def width(shift: float, n: int) -> float:
        scores = norm.ppf((np.arange(n) + 0.5) / n)[None]  # ideal samples, without randomness
        low, high = bounds(scores, scores, [shift], 1e-3)
        return high - low

    shifts = [width(shift, 500) for shift in (0, 0.2, 0.5, 1.0, 2.0)]
    assert all(one < next for one, next in pairwise(shifts))
    sizes = [width(0.5, count) for count in (40, 100, 400, 3000, 50_000)]
    assert all(one > next for one, next in pairwise(sizes))
    assert width(0.5, 50_000) > 2 * 0.5  # never narrower than the truth


# --- verdicts -------------------------------------------------------------------------------------------------------


def art_radius(monkeypatch: pytest.MonkeyPatch, count: int, samples: int, sigma: float, alpha: float) -> float:
    """The radius that ART's randomised smoothing certifies if ``count`` of its samples give one class."""
    # ART leaves the Clopper-Pearson interval to statsmodels, which is not needed for anything else; here SciPy's.
    proportion = ModuleType("statsmodels.stats.proportion")

    def proportion_confint(found: int, all_draws: int, alpha: float, method: str) -> tuple[float, float]:
        assert method == "beta"
        interval = binomtest(found, all_draws).proportion_ci(1 - alpha, method="exact")
        return interval.low, interval.high

    proportion.proportion_confint = proportion_confint  # type: ignore[attr-defined]
    for name, module in {"statsmodels": None, "statsmodels.stats": None, proportion.__name__: proportion}.items():
        monkeypatch.setitem(sys.modules, name, module or ModuleType(name))
    from art.estimators.certification.randomized_smoothing import randomized_smoothing as art

    class Counting(art.RandomizedSmoothingMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            self.sample_size, self.scale, self.alpha = 1, sigma, alpha

        def _fit_classifier(self, *_: object, **__: object) -> None:
            raise NotImplementedError

        def _predict_classifier(self, *_: object, **__: object) -> Floats:
            raise NotImplementedError

        def _prediction_counts(self, x: Floats, n: int, batch_size: int) -> Floats:
            return np.array([n - count, count]) if n == samples else np.array([0, 1])

    (chosen,), (radius,) = Counting().certify(np.zeros((1, 1)), n=samples)
    return float(radius) if chosen == 1 else 0.0


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_the_radius_of_a_majority_is_that_of_art(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    for count in np.linspace(0, n, 11).round().astype(int).tolist():
        for alpha in (0.001, 0.05):
            ours = binary_radius(count, n, 0.25, alpha)
            assert ours == pytest.approx(art_radius(monkeypatch, count, n, 0.25, alpha), abs=1e-9), count


@settings(max_examples=60, deadline=None)
@given(n=st.integers(5, 300), share=st.floats(0.5, 1), alpha=st.floats(1e-4, 0.2), sigma=st.floats(0.1, 2))
def test_the_radius_of_a_majority_is_the_largest_that_bounds_certify(
    n: int, share: float, alpha: float, sigma: float
) -> None:
    count = round(share * n)
    radius = binary_radius(count, n, sigma, alpha)
    assume(radius > 0.01 * sigma)
    scores = (np.arange(n) < count).astype(float)[None]
    assert bounds(scores, scores, [radius * 0.999 / sigma], alpha)[0] == 1
    assert bounds(scores, scores, [radius * 1.001 / sigma], alpha)[0] != 1
    # The other verdict, seen in a mirror.
    assert bounds(1 - scores, 1 - scores, [radius * 0.999 / sigma], alpha)[1] == 0
    assert bounds(1 - scores, 1 - scores, [radius * 1.001 / sigma], alpha)[1] != 0


def test_no_majority_has_no_radius() -> None:
    assert [binary_radius(count, 100, 1.0, 0.01) for count in (0, 30, 50, 60)] == [0, 0, 0, 0]


@pytest.mark.parametrize("n", [1, 5, FIRST_SIZE, FIRST_SIZE + 1, 100, 200, 5000])
def test_interim_sizes_grow_to_all_samples(n: int) -> None:
    planned = interim_sizes(n)
    assert planned[-1] == n
    assert planned[0] == min(FIRST_SIZE, n)
    assert all(one < next for one, next in pairwise(planned))
    assert len(planned) <= 2 + math.log(max(n / FIRST_SIZE, 1), 1.4)


def test_futility_only_if_neither_verdict_is_likely() -> None:
    scores = np.random.default_rng(5).normal(size=(1, 400))
    assert futility(scores, scores, [1.0], 0.0)  # the median itself is the threshold
    assert not futility(scores, scores, [1.0], 3.0)  # certainly normal
    assert not futility(scores, scores, [1.0], -3.0)  # certainly anomalous
    assert not futility(scores[:, :4], scores[:, :4], [1.0], 0.0)  # too early to tell
    assert not futility(scores, scores, [0.0], 0.0)  # within no distance a verdict may yet come
