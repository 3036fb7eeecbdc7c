"""The threshold that keeps its false-alarm rate under attack, on a score whose worst case is known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from analytic_scores import SIGMA, Line, number
from scipy.stats import norm
from toy_models import generator

from advrad.certificates.evaluation import certified_decision
from advrad.certificates.threshold import calibrate_robust_threshold, calibration_rate, least_rate, upper_bounds
from advrad.detectors.conformal import conformal_threshold
from advrad.errors import ConfigError
from advrad.utils.progress import CallbackReporter

RADIUS, DRAWS, CONFIDENCE, RATE = 0.2, 60, 0.99, 0.12


def alarm(x: float, threshold: float, noise: torch.Generator) -> bool:
    """Whether an image is certified anomalous."""
    sampler = Line()
    lower, upper = sampler.sample(number(x), (0.0,), DRAWS, noise)
    return certified_decision(lower[:, 0], upper[:, 0], [0.0], threshold, 1 - CONFIDENCE) == "certified anomalous"


def test_the_rate_holds_under_attack_and_not_for_plain_thresholds() -> None:
    rng, runs = np.random.default_rng(0), 1000
    alarms = {"promised": 0, "plain": 0}
    for run in range(runs):
        # Nine images of one kind to calibrate with, and a tenth that is attacked as badly as can be.
        *normals, new = rng.normal(scale=0.1, size=10)
        promise = calibrate_robust_threshold(
            Line(),
            [number(x) for x in normals],
            false_alarm_rate=RATE,
            radius=RADIUS,
            n_samples=DRAWS,
            confidence=CONFIDENCE,
            seed=run,
        )
        plain = conformal_threshold([2 * x for x in normals], RATE)
        noise = generator(10**6 + run)
        for name, threshold in (("promised", promise.threshold), ("plain", plain)):
            alarms[name] += alarm(new + RADIUS, threshold, noise)
    assert alarms["promised"] / runs <= RATE
    assert alarms["plain"] / runs > 3 * RATE


def test_the_robust_threshold_still_finds_defects() -> None:
    # A defect that lies further away than an attack on both sides, and what is unsure of the bounds, can hide.
    normals = np.random.default_rng(1).normal(scale=0.1, size=9)
    promise = calibrate_robust_threshold(
        Line(),
        [number(x) for x in normals],
        false_alarm_rate=RATE,
        radius=RADIUS,
        n_samples=DRAWS,
        confidence=CONFIDENCE,
    )
    assert 2 * (max(normals) + RADIUS) < promise.threshold < 2 * (max(normals) + RADIUS) + 3 * SIGMA
    assert alarm(1.5 - RADIUS, promise.threshold, generator())


def test_upper_bounds_fail_with_alpha() -> None:
    rng, alpha = np.random.default_rng(2), 0.05
    values = rng.normal(size=1500).tolist()
    found = upper_bounds(Line(), [number(x) for x in values], RADIUS, DRAWS, 1 - alpha, generator())
    missed = np.mean([high < 2 * (x + RADIUS) for x, high in zip(values, found, strict=True)])
    assert 0 < missed <= alpha + 3 * math.sqrt(alpha / len(values))


@pytest.mark.parametrize("quantile", [0.35, 0.65])
def test_bounds_are_those_of_the_smoothing_quantile(quantile: float) -> None:
    rng, alpha = np.random.default_rng(2), 0.05
    values = rng.normal(size=1500).tolist()
    sampler = Line(quantile=quantile)
    found = upper_bounds(sampler, [number(x) for x in values], RADIUS, DRAWS, 1 - alpha, generator())
    moved = SIGMA * float(norm.ppf(quantile))
    missed = np.mean([high < 2 * (x + RADIUS) + moved for x, high in zip(values, found, strict=True)])
    assert 0 < missed <= alpha + 3 * math.sqrt(alpha / len(values))


def test_the_threshold_is_the_conformal_quantile_of_the_bounds() -> None:
    normals = [number(x) for x in np.random.default_rng(3).normal(size=40)]
    told: list[tuple[int, int]] = []
    promise = calibrate_robust_threshold(
        Line(),
        normals,
        false_alarm_rate=0.1,
        radius=RADIUS,
        n_samples=DRAWS,
        confidence=CONFIDENCE,
        seed=5,
        source={"data": "made up"},
        progress=CallbackReporter(lambda *done: told.append(done)),
    )
    bounds = upper_bounds(Line(), normals, RADIUS, DRAWS, CONFIDENCE, generator(5))
    # Two sides that may fail by 0.01 leave 0.08.
    assert calibration_rate(0.1, CONFIDENCE) == pytest.approx(0.08)
    assert promise.threshold == sorted(bounds)[math.ceil(41 * 0.92) - 1]
    assert (promise.false_alarm_rate, promise.radius, promise.n) == (0.1, RADIUS, 40)
    assert (promise.n_samples, promise.confidence, promise.source) == (DRAWS, CONFIDENCE, {"data": "made up"})
    assert told == [(done, 40) for done in range(1, 41)]


def test_a_larger_radius_takes_a_higher_threshold() -> None:
    normals = [number(x) for x in np.random.default_rng(4).normal(size=20)]

    def threshold(radius: float) -> float:
        return calibrate_robust_threshold(Line(), normals, false_alarm_rate=0.1, radius=radius, n_samples=200).threshold

    thresholds = [threshold(radius) for radius in (0.0, 0.05, 0.2, 0.3)]
    assert thresholds == sorted(set(thresholds))


def test_too_few_images_are_refused_with_a_fix() -> None:
    normals = [number(x) for x in np.random.default_rng(5).normal(size=20)]
    with pytest.raises(ConfigError, match=r"needs 20 calibration images under attack, there are 19; .* 0\.052") as no:
        calibrate_robust_threshold(Line(), normals[:19], false_alarm_rate=0.05, radius=RADIUS, n_samples=200)
    assert calibrate_robust_threshold(Line(), normals, false_alarm_rate=0.05, radius=RADIUS, n_samples=200).n == 20
    accepted = float(str(no.value).rpartition("a rate of ")[2].partition(" ")[0])
    assert (
        calibrate_robust_threshold(Line(), normals[:19], false_alarm_rate=accepted, radius=RADIUS, n_samples=200).n
        == 19
    )


@pytest.mark.parametrize("confidence", [0.9, 0.99, 0.999])
def test_the_least_rate_is_one_that_is_accepted(confidence: float) -> None:
    for count in range(1, 400):
        rate = least_rate(count, confidence)
        if rate < 1:
            assert conformal_threshold([0.0] * count, calibration_rate(rate, confidence)) == 0
            with pytest.raises(ConfigError):
                conformal_threshold([0.0] * count, calibration_rate(rate - 2e-4, confidence))


def test_a_rate_that_the_confidence_uses_up_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is used up by a confidence of 0\.95"):
        calibrate_robust_threshold(Line(), [number(0.0)] * 100, false_alarm_rate=0.1, radius=RADIUS, confidence=0.95)


def test_a_radius_that_needs_more_samples_is_refused_with_their_number() -> None:
    def bound(draws: int) -> list[float]:
        return upper_bounds(Line(), [number(0.0)], 0.4, draws, CONFIDENCE, generator())

    with pytest.raises(ConfigError, match=r"cannot be certified with 60 noise samples .* or more noise") as refused:
        bound(DRAWS)
    needed = int(re.findall(r"draws (\d+)", str(refused.value))[0])
    assert math.isfinite(bound(needed)[0])
    with pytest.raises(ConfigError, match="cannot be certified"):
        bound(needed - 1)
