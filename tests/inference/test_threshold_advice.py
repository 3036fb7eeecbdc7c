"""Advice on thresholds: given where a difference is large and not chance, with the trade that another rate brings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toy_bounds import CALIBRATION

from advrad.detectors.config import Calibration
from advrad.detectors.conformal import calibration_from, conformal_threshold
from advrad.inference import threshold_advice
from advrad.inference.threshold_advice import ThresholdAdvice, advise_on_threshold
from advrad.utils.formatting import percent

GRID = np.linspace(0, 1, 39)


def calibrated(scores: np.ndarray, rate: float = 0.05) -> Calibration:
    return calibration_from(list(scores), list(scores), rate)


def advise(calibration: Calibration, normal: np.ndarray, anomalous: np.ndarray) -> ThresholdAdvice | None:
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    return advise_on_threshold(labels, np.append(normal, anomalous), calibration)


def test_missed_defects_that_a_lower_threshold_finds_are_named_with_the_rate_that_leads_there() -> None:
    calibration = calibrated(np.append(GRID[:30], np.linspace(5, 9, 9)))  # nine odd images, far above the others
    normal, anomalous = np.linspace(0, 0.9, 20), np.append(np.full(30, 3.0), np.full(10, 20.0))
    found = advise(calibration, normal, anomalous)
    assert found is not None and found.rate == 0.3
    threshold = conformal_threshold(calibration.scores, 0.3)
    for words in (
        "finds 10 of 40 defects (25 %)", "0 of 20 normal test images are false alarms", "finds 40 (100 %)",
        "exact binomial test", "advrad calibrate RUN DATA -o NEW --false-alarm-rate 0.3", f"threshold {threshold:.4g}",
        "100 % of the defects found (40 of 40)", "promises at most 30 % false alarms", "measured on the test images",
        "promise nothing", "took no part in the choice",
    ):  # fmt: skip
        assert words in found.text, words
    alarms = int((normal > threshold).sum())
    assert f"({alarms} of 20; 95 % interval " in found.text


def test_a_model_without_recorded_scores_is_told_the_next_rate() -> None:
    calibration = CALIBRATION.model_copy(update={"threshold": 5.0, "scores": ()})
    found = advise(calibration, np.linspace(0, 0.9, 20), np.full(10, 3.0))
    assert found is not None and found.rate == 0.1
    assert "does not record which false-alarm rate leads there" in found.text and "promise nothing" in found.text


def test_more_false_alarms_than_promised_are_named_with_their_cause() -> None:
    many = calibrated(np.linspace(0, 1, 199))
    found = advise(many, np.linspace(0.5, 1.1, 40), np.full(10, 3.0))
    assert found is not None and found.rate == 0.005
    for words in ("of 40 normal test images", "promises at most 5 %", "p = ", "differ from those of the calibration"):
        assert words in found.text, words
    few = calibrated(np.linspace(0, 1, 19))
    found = advise(few, np.append(np.zeros(17), np.full(3, 1.1)), np.full(10, 3.0))
    assert found is None, "3 of 20 can be chance"
    found = advise(few, np.append(np.zeros(16), np.full(4, 1.1)), np.full(10, 3.0))
    assert found is not None and found.rate is None
    for words in ("comes from 19 images only, which can explain it", "0.02 needs 49"):
        assert words in found.text, words
    alone = advise(many, np.linspace(0.5, 1.1, 40), np.empty(0))
    assert alone is not None and "of the defects found" not in alone.text


@pytest.mark.parametrize(
    ("normal", "anomalous"),
    [
        (GRID, np.full(40, 3.0)),  # all found, few alarms
        (np.linspace(0, 0.9, 20), np.append(np.full(4, 0.95), np.full(4, 3.0))),  # four more found: may be chance
        (np.linspace(0, 0.9, 20), np.append(np.full(6, 0.92), np.full(94, 3.0))),  # six more of a hundred: small
        (np.linspace(0, 0.9, 9), np.full(40, 0.95)),  # nine normal images say little
        (GRID, np.linspace(0, 0.9, 40)),  # no threshold separates them
    ],
)
def test_there_is_no_advice_without_a_clear_reason(normal: np.ndarray, anomalous: np.ndarray) -> None:
    assert advise(calibrated(GRID), normal, anomalous) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-2, 2), st.floats(0, 3), st.integers(19, 80), st.integers(0, 40))
def test_the_trade_is_what_the_threshold_of_the_rate_does(
    seed: int, shift: float, distance: float, count: int, defects: int
) -> None:
    rng = np.random.default_rng(seed)
    calibration = calibrated(rng.standard_t(2, count))
    normal, anomalous = rng.normal(shift, 1, 25), rng.normal(shift + distance, 1, defects)
    found = advise(calibration, normal, anomalous)
    if found is None or found.rate is None:
        return
    threshold = conformal_threshold(calibration.scores, found.rate)
    assert f"({int((normal > threshold).sum())} of 25;" in found.text
    if defects:
        assert f"({int((anomalous > threshold).sum())} of {defects})" in found.text
    more_alarms = found.rate > calibration.false_alarm_rate
    assert (threshold <= calibration.threshold) if more_alarms else (threshold >= calibration.threshold)


def test_chance_alone_seldom_leads_to_advice() -> None:
    """With images like those of the calibration, and defects that are far away, nearly nothing is said."""
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        scores = rng.normal(0, 1, 99)
        told += advise(calibrated(scores), rng.normal(0, 1, 40), rng.normal(9, 1, 20)) is not None
    assert told <= 20


def test_scores_of_the_calibration_are_recorded_and_survive_json() -> None:
    calibration = calibrated(GRID[::-1])
    assert calibration.scores == tuple(sorted(GRID))
    assert Calibration.parse(calibration.model_dump(mode="json")) == calibration
    assert "scores" not in CALIBRATION.model_dump(), "folders of earlier versions stay as they are"
    as_read = torch.tensor(GRID, dtype=torch.float32).tolist()
    assert calibrated(np.array(as_read)).threshold == conformal_threshold(as_read, 0.05)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from([0.01, 0.05, 0.3]), st.integers(2, 200))
def test_the_chances_are_those_of_scipy(normal: int, alarms: int, rate: float, n: int) -> None:
    alarms, above = min(alarms, normal), max(1, int(rate * n))
    found = stats.binomtest(alarms, normal, rate, alternative="greater")
    assert threshold_advice._chance_of_more(alarms, normal, rate) == pytest.approx(found.pvalue, rel=1e-9)
    chance = threshold_advice._chance_of_more_at_drawn_rate(alarms, normal, above, n + 1 - above)
    assert chance == pytest.approx(stats.betabinom.sf(alarms - 1, normal, above, n + 1 - above), abs=1e-9)
    ends = stats.binomtest(alarms, normal).proportion_ci(0.95)
    trade = threshold_advice._Trade(0.0, 0, 0, alarms, normal)
    assert trade._interval() == f"; 95 % interval {percent(float(ends.low))} to {percent(float(ends.high))}"
    gain = threshold_advice._Trade(0.0, alarms, normal, 0, normal)
    chance = threshold_advice._chance_of_gain(gain, threshold_advice._Trade(0.0, 0, normal, 0, normal))
    assert chance == (stats.binomtest(alarms, alarms, 0.5, alternative="greater").pvalue if alarms else 1.0)
