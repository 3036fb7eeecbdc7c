"""What bounds of a score prove: verdicts, the certified AUROC, and the reach of a verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_brightness import Brightness, flat

from advrad.certificates.lipschitz import (
    LARGEST_RADIUS,
    certified_auroc,
    certified_auroc_interval,
    proven_verdict,
    verdict_radius,
)
from advrad.detectors.base import ScoreBounds


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [(0.6, 0.7, "proven defective"), (0.5, 0.7, "not proven"), (0.2, 0.5, "proven good"), (0.2, 0.6, "not proven")],
)
def test_a_verdict_is_proven_by_the_bounds(lower: float, upper: float, verdict: str) -> None:
    assert proven_verdict(lower, upper, 0.5) == verdict


@given(
    anomalous=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    normal=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    reach=st.floats(0, 0.3),
    seed=st.integers(0, 100),
)
def test_no_scores_within_the_bounds_have_a_lower_auroc(
    anomalous: list[float], normal: list[float], reach: float, seed: int
) -> None:
    labels = np.array([1] * len(anomalous) + [0] * len(normal))
    scores = np.array(anomalous + normal)
    certified = certified_auroc(labels, scores - reach, scores + reach)
    draws = np.random.default_rng(seed)
    for _ in range(5):
        moved = scores + draws.uniform(-reach, reach, len(scores))
        share = np.mean([a > n for a in moved[labels == 1] for n in moved[labels == 0]])
        assert certified is not None and certified <= share + 1e-12


def test_one_class_has_no_certified_auroc() -> None:
    labels, low, high = np.array([1, 1]), np.zeros(2), np.ones(2)
    assert certified_auroc(labels, low, high) is None
    assert certified_auroc_interval(labels, low, high, seed=0) is None


def test_the_interval_surrounds_the_certified_auroc_and_a_tie_counts_0() -> None:
    draws = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    scores = draws.normal(size=80) + labels
    area = certified_auroc(labels, scores - 0.1, scores + 0.1)
    found = certified_auroc_interval(labels, scores - 0.1, scores + 0.1, seed=0)
    assert area is not None and found is not None and found[0] < area < found[1]
    tied = np.ones(80)
    assert certified_auroc(labels, tied, tied) == 0.0
    assert certified_auroc_interval(labels, tied, tied, seed=0) == (0.0, 0.0)


@pytest.mark.parametrize("value", [0.52, 0.47])
@pytest.mark.parametrize("radii", [(), (0.01,), (0.04,), (0.01, 0.04), (0.0, 0.01)])
def test_the_reach_of_a_verdict_is_the_distance_to_the_threshold(value: float, radii: tuple[float, ...]) -> None:
    detector = Brightness()
    known = {radius: (value - radius - 1e-6, value + radius + 1e-6) for radius in radii}
    found = verdict_radius(detector, flat(value)[0], 0.5, "linf", known)
    assert abs(value - 0.5) - LARGEST_RADIUS["linf"] / 256 - 2e-6 <= found <= abs(value - 0.5)
    assert len(detector.asked) <= (9, 6, 3)[len(radii)] and not set(detector.asked) & set(radii)


@given(
    value=st.floats(0.4, 0.6),
    power=st.floats(0.3, 3),
    jump=st.floats(0, 0.05),
    radii=st.lists(st.floats(0, 16 / 255), max_size=3),
)
def test_the_reach_is_found_for_bounds_of_any_shape(
    value: float, power: float, jump: float, radii: list[float]
) -> None:
    asked = []

    class Curved(Brightness):
        """Bounds that bend and jump."""

        def score_bounds(self, images: Tensor, radius: float, norm: str) -> ScoreBounds:
            asked.append(radius)
            reach = torch.tensor([10 * radius**power + (jump if radius > 0.02 else 0)], dtype=torch.float64)
            scores = torch.tensor([value], dtype=torch.float64)
            return ScoreBounds(scores, scores - reach, scores + reach, images)

    def proven(radius: float) -> bool:
        bounds = Curved().score_bounds(flat(value), radius, "linf")
        return proven_verdict(float(bounds.lower), float(bounds.upper), 0.5) != "not proven"

    bounds = {radius: Curved().score_bounds(flat(value), radius, "linf") for radius in radii}
    known = {radius: (float(found.lower), float(found.upper)) for radius, found in bounds.items()}
    asked.clear()
    found = verdict_radius(Curved(), flat(value)[0], 0.5, "linf", known)
    assert len(asked) <= 26
    largest = LARGEST_RADIUS["linf"]
    assert found == 0 or proven(found)
    assert found >= largest or not proven(found + 1.001 * largest / 256)


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.lists(st.floats(0, 16 / 255), max_size=3))
def test_bounds_that_are_tighter_at_a_larger_radius_prove_no_more(held: list[bool], radii: list[float]) -> None:
    """The radius that is found is one whose own bounds prove the verdict, whatever the bounds at other radii."""

    class Wavy(Brightness):
        """Proves the verdict in some intervals of the radius and not in others."""

        def score_bounds(self, images: Tensor, radius: float, norm: str) -> ScoreBounds:
            proven = held[min(7, int(8 * radius / LARGEST_RADIUS["linf"]))]
            scores, reach = torch.tensor([0.6]), 0.05 if proven else 0.2
            return ScoreBounds(scores, scores - reach, scores + reach, images)

    def bounds(radius: float) -> tuple[float, float]:
        found = Wavy().score_bounds(flat(0.6), radius, "linf")
        return float(found.lower), float(found.upper)

    found = verdict_radius(Wavy(), flat(0.6)[0], 0.5, "linf", {radius: bounds(radius) for radius in radii})
    assert found == 0 or proven_verdict(*bounds(found), 0.5) == "proven defective"


def test_a_verdict_far_from_the_threshold_reaches_the_largest_radius() -> None:
    assert verdict_radius(Brightness(), flat(0.9)[0], 0.5, "linf") == LARGEST_RADIUS["linf"]
    assert verdict_radius(Brightness(), flat(0.9)[0], 0.5, "linf", {0.2: (0.7, 1.0)}) == 0.2
    assert verdict_radius(Brightness(), flat(0.5)[0], 0.5, "linf", {0.2: (0.3, 0.7)}) == 0


def test_a_verdict_that_is_not_proven_at_radius_0_is_not_searched() -> None:
    detector = Brightness()
    assert verdict_radius(detector, flat(0.5)[0], 0.5, "linf", {0.0: (0.49, 0.51)}) == 0
    assert detector.asked == []
