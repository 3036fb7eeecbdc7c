"""The threshold of an export, the images of int8, and the unit of differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_feature_detectors
import toy_guarded
import toy_models

import advrad
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError
from advrad.exporting.calibration import (
    FEWEST_FOR_INT8,
    new_decision,
    present_decision,
    rows_for_int8,
    spread_of_scores,
)
from advrad.exporting.comparing import Scored


def scored(*numbers: float, largest: float = 1.0) -> Scored:
    return Scored(numbers[0], np.array(numbers), largest)


def features() -> advrad.detectors.SavedDetector:
    detector = toy_feature_detectors.quick_detector()
    detector.calibrate(torch.rand(19, 3, 32, 32, generator=toy_models.generator(0)), 0.05)
    return detector


def test_the_new_threshold_is_the_conformal_quantile_of_the_new_scores(closed_run: Path) -> None:
    detector = advrad.load_detector(closed_run)
    values = [float(value) for value in range(21)]
    decision = new_decision(detector, [scored(value, largest=value) for value in values])
    assert decision.thresholds.tolist() == [conformal_threshold(values, 0.05)] == [20.0]
    assert decision.is_defective(np.array([20.5])) and not decision.is_defective(np.array([20.0]))
    assert decision.calibration.heat_low == 10.0 and decision.calibration.source == detector.calibration.source
    decision.store(detector)
    assert detector.threshold == 20.0


def test_the_halves_of_a_guarded_detector_get_tests_of_their_own_scores() -> None:
    detector = toy_guarded.guarded(wrap(toy_guarded.Contrast(), deterministic=True))
    before = detector.tests
    images = toy_guarded.normals(toy_guarded.N, 3)
    halves = detector.score_halves(images)[0].numpy()
    found = [Scored(0.0, row, 1.0) for row in halves * 1.5]
    decision = new_decision(detector, found)
    assert [test.slots for test in decision.tests] == [test.slots for test in before]
    assert [test.heat_high for test in decision.tests] == [test.heat_high for test in before]
    memory = sorted(halves[:, 0] * 1.5)
    assert decision.tests[0].threshold == pytest.approx(memory[-before[0].slots])
    speaks = sum(decision.is_defective(one.compared) for one in found)
    assert speaks <= toy_guarded.RATE * (toy_guarded.N + 1), "the promise of both together"
    decision.store(detector)
    assert present_decision(detector).tests == decision.tests == detector.tests


def test_images_of_int8_do_not_set_the_threshold_and_enough_are_left() -> None:
    detector = features()
    rows = rows_for_int8(detector, 40, left_out=False)
    assert len(rows) == len(set(rows)) == 13 and set(rows) <= set(range(40))
    assert rows == rows_for_int8(detector, 40, left_out=False), "always the same"
    assert len(rows_for_int8(detector, 27, left_out=False)) == FEWEST_FOR_INT8
    assert len(rows_for_int8(detector, 900, left_out=False)) == 64


def test_too_few_images_for_int8_say_how_many_are_needed() -> None:
    message = "needs 27 calibration images: 8 that set the ranges of values, and 19 others .* there are 26"
    with pytest.raises(ConfigError, match=message):
        rows_for_int8(features(), 26, left_out=False)
    assert len(rows_for_int8(features(), 8, left_out=True)) == 8, "the threshold stays"
    with pytest.raises(ConfigError, match="needs 8 calibration images: 8 that set the ranges of values; there are 7"):
        rows_for_int8(features(), 7, left_out=True)


def test_the_unit_is_the_spread_of_scores_that_set_the_threshold(left_out_run: Path) -> None:
    said = [scored(0.0), scored(4.0)]
    detector = advrad.load_detector(left_out_run)
    assert spread_of_scores(detector, said, left_out=False).tolist() == [2.0]
    stored = np.std(detector.calibration.scores)
    assert spread_of_scores(detector, said, left_out=True).tolist() == pytest.approx([stored])
