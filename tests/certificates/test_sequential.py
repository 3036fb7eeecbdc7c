"""Certified verdicts on single images, on a score whose worst case is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from analytic_scores import Floats, Line, number
from toy_models import generator

from advrad.certificates import sequential
from advrad.certificates.order_statistics import bounds, interim_sizes
from advrad.certificates.sequential import RADIUS_GRID, CertifiedPrediction, certified_decision, certify_sequential


def step(z: Floats) -> Floats:
    """1 above 0; smoothed, the verdict at threshold 0.5 stands as far as x is from 0."""
    return (z > 0).astype(float)


def test_verdicts_follow_from_bounds_at_half_of_alpha() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 300))
    low, high = bounds(scores, scores, [0.5], 0.01)
    tiny = 1e-9
    assert certified_decision(scores, scores, [0.5], low - tiny, 0.02) == "certified anomalous"
    assert certified_decision(scores, scores, [0.5], low, 0.02) == "abstain"  # anomalous is above the threshold
    assert certified_decision(scores, scores, [0.5], high - tiny, 0.02) == "abstain"
    assert certified_decision(scores, scores, [0.5], high, 0.02) == "certified normal"


@pytest.mark.parametrize(("x", "verdict"), [(4.0, "certified anomalous"), (-4.0, "certified normal")])
def test_an_easy_verdict_stops_at_the_first_check(x: float, verdict: str) -> None:
    sampler = Line()
    found = certify_sequential(sampler, number(x), 0.05, 0.0, 1000, 0.01, generator())
    assert found.verdict == verdict
    assert found.n_samples == sampler.drawn == interim_sizes(1000)[0]
    assert found.radius >= 0.05
    further = certify_sequential(sampler, number(x), 0.3, 0.0, 1000, 0.01, generator())
    assert further.verdict == verdict and further.n_samples > found.n_samples and further.radius >= 0.3


def test_an_unlikely_verdict_is_abandoned_early() -> None:
    # Half of the images within reach are anomalous.
    found = [certify_sequential(Line(), number(0.0), 0.2, 0.0, 2000, 0.01, generator(seed)) for seed in range(20)]
    assert all((s.verdict, s.radius) == ("abstain", 0) for s in found)
    assert np.mean([s.n_samples for s in found]) < 200


def test_an_unreachable_radius_draws_no_samples() -> None:
    sampler = Line()
    assert certify_sequential(sampler, number(4.0), 0.6, 0.0, 60, 0.01, generator()) == CertifiedPrediction(
        "abstain", 0, 0.0
    )
    assert sampler.drawn == 0


def test_a_reachable_verdict_is_rarely_abandoned() -> None:
    found = [certify_sequential(Line(), number(0.25), 0.2, 0.0, 3000, 0.01, generator(seed)) for seed in range(200)]
    assert np.mean([s.verdict == "certified anomalous" for s in found]) > 0.9


@pytest.mark.parametrize("wanted", [RADIUS_GRID[0], RADIUS_GRID[3]])
def test_early_stopping_keeps_alpha_at_the_boundary(wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "RADIUS_GRID", (RADIUS_GRID[0], RADIUS_GRID[3], RADIUS_GRID[4]))
    # The truth ends just below a radius of the grid, so a claim that includes it is wrong.
    truth, alpha, runs = RADIUS_GRID[3] * (1 - 1e-9), 0.2, 1000
    sampler = Line(shape=step, slope=0)
    for sign in (-1, 1):
        found = [
            certify_sequential(sampler, number(sign * truth), wanted, 0.5, 120, alpha, generator(seed))
            for seed in range(runs)
        ]
        wrong = np.mean([s.radius > truth for s in found])
        # One side is all that can fail here, and it has half of alpha.
        assert 0 < wrong <= alpha / 2 + 3 * math.sqrt(alpha / 2 / runs)
        opposite = "certified anomalous" if sign < 0 else "certified normal"
        assert np.mean([s.verdict == opposite for s in found]) <= 0.01


def test_repeated_checks_without_sharing_alpha_break_the_guarantee() -> None:
    # The same scores at the same boundary: what the sharing is for.
    alpha, runs, draws = 0.2, 1500, 120
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(runs):
        scores = step(0.1 + 0.2 * rng.normal(size=(1, draws)))
        wrong += any(
            certified_decision(scores[:, :size], scores[:, :size], [0.1 / 0.2], 0.5, alpha) != "abstain"
            for size in interim_sizes(draws)
        )
    assert wrong / runs > alpha / 2 + 3 * math.sqrt(alpha / 2 / runs)
