"""The threshold's promise: false alarms on exchangeable images."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import toy_feature_detectors
import toy_models
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.splits import normals_needed
from advrad.data.transforms import resize
from advrad.detectors.conformal import calibration_from, conformal_threshold
from advrad.errors import ConfigError

REPETITIONS = 1000


def false_alarms(n: int, alpha: float, rule: str, seed: int = 0) -> tuple[float, float]:
    """Mean false-alarm rate over calibration sets, and its Monte-Carlo error.

    The scores of a set hang together (each set has its own centre and width), which exchangeability allows.
    """
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(REPETITIONS):
        scores = rng.normal() + rng.uniform(0.5, 2) * rng.standard_gamma(0.7, n + 200)
        known, new = scores[:n], scores[n:]
        if rule == "conformal":
            threshold = conformal_threshold(known.tolist(), alpha)
        else:
            threshold = float(np.quantile(known, 1 - alpha))
        rates.append(float((new > threshold).mean()))
    return float(np.mean(rates)), float(np.std(rates) / math.sqrt(REPETITIONS))


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (25, 0.05), (60, 0.05), (9, 0.1), (99, 0.01), (4, 0.3)])
def test_the_false_alarm_rate_is_kept(n: int, alpha: float) -> None:
    rate, error = false_alarms(n, alpha, "conformal")
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    exact = (n + 1 - rank) / (n + 1)
    assert exact <= alpha + 1e-12
    assert rate <= alpha + 3 * error
    assert abs(rate - exact) <= 4 * error


@pytest.mark.parametrize("n", [19, 25])
def test_the_plain_quantile_exceeds_the_rate(n: int) -> None:
    rate, error = false_alarms(n, 0.05, "quantile")
    assert rate > 0.05 + 5 * error


@settings(max_examples=100)
@given(
    scores=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=60),
    alpha=st.floats(0.02, 0.98),
)
def test_leaving_one_out_never_alarms_too_often(scores: list[float], alpha: float) -> None:
    """The promise without probability: each of n + 1 scores in turn is new; ties are welcome."""
    if len(scores) - 1 < normals_needed(alpha):
        return
    alarms = sum(score > conformal_threshold(scores[:i] + scores[i + 1 :], alpha) for i, score in enumerate(scores))
    assert alarms <= alpha * len(scores) + 1e-9


def test_the_threshold_is_one_of_the_scores() -> None:
    scores = [float(value) for value in np.random.default_rng(0).permutation(100)]
    assert conformal_threshold(scores, 0.05) == 95.0  # the 96th smallest: ceil(101 * 0.95)
    assert conformal_threshold(scores[:19], 0.05) == max(scores[:19])
    assert conformal_threshold(scores[::-1], 0.05) == 95.0


def test_ties_do_not_raise_the_rate() -> None:
    assert conformal_threshold([1.0] * 40) == 1.0  # a score equal to the threshold is no alarm
    assert conformal_threshold([0.0] * 30 + [1.0] * 10) == 1.0


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (0.3, 3), (0.001, 999)])
def test_the_number_of_images_needed(alpha: float, needed: int) -> None:
    assert normals_needed(alpha) == needed
    conformal_threshold(list(range(needed)), alpha)
    if needed > 1:
        with pytest.raises(ConfigError, match=rf"needs {needed} calibration images, there are {needed - 1}"):
            conformal_threshold(list(range(needed - 1)), alpha)


def test_the_rate_in_the_error_is_accepted() -> None:
    for count in range(1, 300):
        with pytest.raises(ConfigError) as caught:
            conformal_threshold([0.0] * count, 1e-4)
        offered = re.search(r"a rate of ([\d.]+) or more", str(caught.value))
        assert offered is not None
        assert conformal_threshold([0.0] * count, float(offered[1])) == 0.0, count
        assert normals_needed(float(offered[1]) * 0.95) > count * 0.95, "an offer should not be too modest"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match="not a finite number"):
        conformal_threshold([0.0] * 30 + [wrong])


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_rates_outside_0_and_1_are_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        conformal_threshold([0.0] * 30, alpha)
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        normals_needed(alpha)


def test_heat_maps_glow_from_the_median_to_what_normal_maps_exceed_rarely() -> None:
    scores, maxima = [3.0, 1.0, 2.0, 4.0], [10.0, 40.0, 20.0, 30.0]
    found = calibration_from(scores, maxima, 0.2, {"data": "made up"})
    assert (found.threshold, found.n, found.false_alarm_rate) == (4.0, 4, 0.2)
    assert found.heat_low == 25.0 and found.heat_high == pytest.approx(40.0) and found.heat_high > 40.0
    assert found.source == {"data": "made up"} and calibration_from(scores, maxima, 0.2).source == {}


def test_a_calibration_keeps_brightness_and_sharpness_at_the_working_size() -> None:
    """Images of another size are scaled first, as the detector scales them: else they would not compare."""
    detector = toy_feature_detectors.quick_detector()
    images = torch.rand(19, 3, 48, 64, generator=toy_models.generator(3))
    detector.calibrate(images, 0.05)
    side = detector.image_size_px
    expected = PictureReference.of(picture_statistics(image) for image in resize(images, (side, side)))
    assert detector.calibration.picture_statistics == expected
    assert calibration_from([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.25).picture_statistics is None


def test_a_rate_of_nearly_1_takes_the_smallest_score() -> None:
    nearly = 0.9999999999999998
    assert conformal_threshold([3.0, 1.0, 2.0], nearly) == 1.0
    with pytest.raises(ConfigError, match="there are none"):
        conformal_threshold([], nearly)
