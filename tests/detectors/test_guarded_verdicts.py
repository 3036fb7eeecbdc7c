"""The verdicts of a guarded detector in words, what they prove, and how its tests are set."""

from __future__ import annotations

import pytest
import torch
import toy_guarded
from toy_guarded import EPS, SIZE_PX, Contrast, N, dents, guarded, haze, normals
from toy_models import generator

from advrad.data.framing import Framing
from advrad.data.resize_norm import RESIZE_ROUNDING
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_tests import divide_slots
from advrad.detectors.saved import seen_by
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError, DetectorError, NotCalibratedError

MIXED = torch.cat([normals(2, 5), dents(2, 6), dents(1, 7, depth=0.08), haze(1, 8)])


@pytest.fixture(scope="module")
def made() -> GuardedDetector:
    return guarded()


def test_every_verdict_says_which_half_spoke_and_what_is_proven(made: GuardedDetector) -> None:
    verdicts = made.verdicts(MIXED)
    words = [str(verdict.word) for verdict in verdicts]
    assert words[2:4] == ["defective, proven"] * 2 and words[5] == "suspected"
    assert words[4] in ("defective", "defective, proven") and all(word.startswith("good") for word in words[:2])
    output = made.predict_batch(MIXED)
    assert output.half_scores is not None
    for row, verdict in enumerate(verdicts):
        memory, half = verdict.halves
        assert (memory.name, half.name) == ("memory", "half") and half.lower is None and half.upper is None
        assert memory.lower is not None and memory.upper is not None
        assert memory.lower <= memory.score <= memory.upper
        assert memory.speaks == (memory.score > memory.threshold) == (memory.p_value <= made.tests[0].false_alarm_rate)
        assert half.speaks == (half.score > half.threshold) == (half.p_value <= made.tests[1].false_alarm_rate)
        assert [memory.score, half.score] == output.half_scores[row].tolist()
        assert (verdict.word == "defective, proven") == (memory.lower > memory.threshold)
        assert (verdict.word == "good, memory proven") == (not half.speaks and memory.upper <= memory.threshold)
        assert verdict.score == float(output.scores[row])


def test_the_words_at_a_radius_are_those_of_the_bounds(made: GuardedDetector) -> None:
    for radius in (0.0, EPS, 20 / 255):
        bounds = made.score_bounds(MIXED, radius, "linf")
        assert bounds.words == tuple(verdict.word for verdict in made.verdicts(MIXED, radius))
    assert "good, memory proven" in made.score_bounds(MIXED, 0.0, "linf").words
    far = made.score_bounds(MIXED, 60 / 255, "linf").words
    assert not any("proven" in word for word in far)


def test_without_a_radius_nothing_is_proven_and_no_bounds_are_computed(
    made: GuardedDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = GuardedDetector(made.config.model_copy(update={"radius": 0.0}), made.memory, made.others)
    monkeypatch.setattr(type(made.memory), "score_bounds", lambda *_: pytest.fail("bounds"))
    verdicts = quick.verdicts(MIXED)
    assert {str(verdict.word) for verdict in verdicts} == {"good", "defective", "suspected"}
    assert all(verdict.halves[0].lower is None for verdict in verdicts)


def test_proofs_of_files_cover_the_rounding_of_scaling(made: GuardedDetector) -> None:
    [verdict] = made.verdicts(MIXED[:1])
    exact, wider = (made.memory.score_bounds(MIXED[:1], radius, "linf") for radius in (EPS, EPS + RESIZE_ROUNDING))
    assert verdict.halves[0].upper == float(wider.upper) > float(exact.upper)


def test_predictions_carry_the_verdict(made: GuardedDetector) -> None:
    predictions = list(made.predict(MIXED, batch_size=4))
    for prediction, verdict in zip(predictions, made.verdicts(MIXED), strict=True):
        assert prediction.verdict == str(verdict.word) and prediction.verdict_words is verdict.word
        assert prediction.defective == verdict.word.defective and prediction.halves == verdict.halves
        assert prediction.reason is None and prediction.threshold == 0.0 and prediction.score == verdict.score
        assert len(prediction.half_maps) == 2 and prediction.half_maps[0].shape == (SIZE_PX, SIZE_PX)
    assert predictions[5].defective and predictions[5].score <= 0  # only the half without proofs speaks
    cropped = predictions[0].without_padding(Framing.square(SIZE_PX, pad=True), 16, 32)
    assert cropped.anomaly_map.shape == cropped.half_maps[1].shape == (16, 32)
    plain = toy_guarded.closed_form(normals(40, 0))
    plain.calibrate([normals(19, 1)])
    assert [one.verdict for one in plain.predict(MIXED[:1])] == ["good"]


# --- Calibration ---


def test_the_tests_are_set_from_normal_images(made: GuardedDetector) -> None:
    fresh = GuardedDetector(made.config.model_copy(update={"tests": (), "calibration": None}), made.memory, made.others)
    for call in (
        lambda: fresh.infer(MIXED, generator()),
        lambda: fresh.predict_batch(MIXED),
        lambda: fresh.score_bounds(MIXED, 0.0, "linf"),
        lambda: fresh.surrogates["all halves"](MIXED, generator()),
        lambda: list(fresh.predict(MIXED)),
    ):
        with pytest.raises(NotCalibratedError, match="no threshold"):
            call()
    assert fresh.threshold is None
    held = normals(N, 1)
    fresh.calibrate([held], 0.1, {"data": "made up"})
    assert fresh.config.joint and fresh.calibration.source == {"data": "made up"} and fresh.calibration.n == N
    assert (fresh.calibration.threshold, fresh.calibration.heat_low, fresh.calibration.heat_high) == (0.0, 0.0, 1.0)
    assert sum(test.false_alarm_rate for test in fresh.tests) <= 0.1 == fresh.calibration.false_alarm_rate
    output = fresh.predict_batch(held)
    assert output.defective is not None and int(output.defective.sum()) <= sum(divide_slots(N, 0.1, (1, 1))) - 1
    # Slots are divided again as they were.
    first, equal = guarded(beyond=(1, 0)), guarded(beyond=(1, 1))
    for made in (first, equal):
        made.calibrate([normals(199, 2)], 0.05)
    assert [[test.slots for test in made.tests] for made in (first, equal)] == [[9, 1], [5, 5]]
    with pytest.raises(ConfigError, match="needs 39 calibration images for 2 tests, there are 20"):
        fresh.calibrate([normals(20, 1)], 0.05)
    with pytest.raises(ConfigError, match="there are 0"):
        fresh.calibrate([], 0.05)


def test_a_normal_image_on_which_a_half_fails_sets_no_threshold(made: GuardedDetector) -> None:
    silent = wrap(lambda images: images.new_full((len(images),), torch.nan))
    broken = GuardedDetector(made.config, made.memory, {"half": silent})
    with pytest.raises(DetectorError, match="half: fails on a normal image: its score is nan; mend it there"):
        broken.calibrate([normals(N, 1)], 0.1)


def test_halves_that_do_not_suit_the_configuration_are_refused(made: GuardedDetector) -> None:
    with pytest.raises(ConfigError, match="others: must be half, as the configuration says; got another"):
        GuardedDetector(made.config, made.memory, {"another": Contrast()})
    with pytest.raises(ConfigError, match="half: takes images of 64 px, and the memory images of 32 px"):
        GuardedDetector(made.config, made.memory, {"half": wrap(Contrast(), size_px=64)})
    with pytest.raises(ConfigError, match=r"ceiling must not lie between 0 and 0\.1"):
        made.update_config(ceiling=0.05)
    assert seen_by(made) == ()
