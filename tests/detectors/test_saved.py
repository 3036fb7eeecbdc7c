"""What every saved detector does with images in memory, and with a score that is not a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_closed_forms import detector_of, draws, memory_like
from toy_bounds import CALIBRATION
from toy_models import detector as learned_detector
from toy_models import generator, random_images

import advrad
from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.base import DetectorOutput
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.combined import CombinedConfig, CombinedDetector
from advrad.detectors.config import RecordedFigures, RobustCalibration
from advrad.detectors.saved import SavedDetector
from advrad.detectors.tiled import TiledDetector
from advrad.detectors.tiled_config import TiledConfig
from advrad.detectors.views import WholeConfig, WholeView
from advrad.errors import CheckpointError, ConfigError, DataError, NotCalibratedError

FRAME = np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)
NAN = torch.stack([torch.full((3, 32, 32), 0.5), torch.full((3, 32, 32), 0.5)])
NAN[1, 0, 3, 3] = torch.nan


def closed_form(size_px: int = 32) -> ClosedFormDetector:
    memory = MemoryConfig(height_cells=8, width_cells=8, patch_cells=3)
    sheets = memory_like(memory, torch.full((3, 8, 8), 0.5), 4, 0.05, draws(0))
    view = WholeView(WholeConfig(size_px=size_px, cell_px=size_px // 8))
    made = detector_of(view, memory, sheets, generator=draws(1))
    made.update_config(image_size_px=size_px, calibration=CALIBRATION)
    return made


def combined() -> CombinedDetector:
    memory, learned = closed_form(), learned_detector(calibrated=False)
    parts: dict[str, Any] = {"memory": memory.config, "learned": learned.detector_config}
    config = CombinedConfig(**parts, weight=0.5, low=-1.0, high=3.0, calibration=CALIBRATION)
    return CombinedDetector(config, memory, learned).eval()


def tiled() -> TiledDetector:
    base = closed_form(16)
    config = TiledConfig(base=base.config, height_px=32, width_px=32, calibration=CALIBRATION)
    return TiledDetector(config, base).eval()


@pytest.fixture(scope="module", params=["learned", "closed form", "combined", "tiled"])
def detector(request: pytest.FixtureRequest) -> SavedDetector:
    made: dict[str, Any] = {
        "learned": learned_detector,
        "closed form": closed_form,
        "combined": combined,
        "tiled": tiled,
    }
    return cast(SavedDetector, made[request.param]())


def score(detector: SavedDetector, images: Any) -> float:
    (prediction,) = detector.predict(images)
    return prediction.score


def test_a_frame_gets_the_score_of_its_file(detector: SavedDetector, tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    Image.fromarray(FRAME).save(path)
    wanted = score(detector, path)
    tensor = torch.from_numpy(FRAME).permute(2, 0, 1)
    for form in (FRAME, [FRAME], Image.fromarray(FRAME), tensor, tensor[None], FRAME[None] / 255, iter([str(path)])):
        assert score(detector, form) == pytest.approx(wanted, abs=1e-5)
    float_size = tensor[None] / 255  # float tensors keep their size, so they are not scaled twice
    assert score(detector, float_size) == pytest.approx(float(detector.predict_batch(float_size).scores), abs=1e-6)
    for other in (float_size.double(), float_size.permute(0, 2, 3, 1), float_size.clone().requires_grad_()):
        assert score(detector, other) == pytest.approx(score(detector, float_size), abs=1e-6)
    half = float_size.half()
    assert score(detector, half) == pytest.approx(score(detector, half.float()), abs=1e-6)
    assert float(detector.predict_batch(half).scores) == pytest.approx(score(detector, half), abs=1e-5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (NAN, r"images\[1\]: float32 .* 1 value that is NaN"),
        (255 * random_images(1), r"images\[0\]: .* divide by 255"),
        (2 * random_images(1) - 1, r"images\[0\]: .* \(images \+ 1\) / 2"),
    ],
    ids=["NaN", "0 to 255", "-1 to 1"],
)
def test_wrong_values_never_get_a_verdict(detector: SavedDetector, images: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(detector.predict(images))
    with pytest.raises(DataError, match=words):
        detector.predict_batch(images)
    before = detector.calibration
    with pytest.raises(DataError, match=r"images\[1\]"):
        detector.calibrate([*random_images(1), *images[len(images) - 1 :]] * 20)
    assert detector.calibration == before
    labels = [0, 1] * len(images)
    with pytest.raises(DataError, match=words):
        advrad.evaluate(detector, (images.repeat(2, 1, 1, 1), labels))
    if hasattr(detector, "score_bounds"):
        with pytest.raises(DataError, match=words):
            detector.score_bounds(images, 1 / 255, "linf")


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_no_verdict(
    detector: SavedDetector, broken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = detector.predict_batch(random_images(2))
    answer = DetectorOutput(torch.tensor([0.1, broken]), output.anomaly_maps, output.reconstructions)
    monkeypatch.setattr(type(detector), "predict_batch", lambda self, images: answer)
    found = detector.predict(random_images(2))
    assert next(found).score == pytest.approx(0.1)
    with pytest.raises(CheckpointError, match=r"images\[1\]: its score is -?(nan|inf); the model is damaged"):
        next(found)


def test_calibration_takes_what_prediction_takes(detector: SavedDetector, tmp_path: Path) -> None:
    frames = [np.roll(FRAME, 3 * shift, 1) for shift in range(9)]
    before = detector.calibration
    thresholds = []
    for form in (frames, np.stack(frames), iter([Image.fromarray(frame) for frame in frames])):
        detector.calibrate(form, 0.1, {"data": "frames"})
        thresholds.append(detector.calibration.threshold)
        assert detector.calibration.n == 9 and detector.calibration.source == {"data": "frames"}
    assert thresholds == pytest.approx([max(score(detector, frame) for frame in frames)] * 3, abs=1e-5)
    cast(Any, detector).update_config(calibration=before)


def test_a_new_threshold_leaves_nothing_that_holds_for_the_old_one(detector: SavedDetector) -> None:
    changed, before = cast(Any, detector), cast(Any, detector).config
    robust = RobustCalibration(threshold=1.0, false_alarm_rate=0.1, radius=0.01, norm="linf", n=9)
    changed.update_config(robust_calibration=robust, figures=RecordedFigures(certified_linf={"2/255": 0.9}))
    detector.calibrate([np.roll(FRAME, 3 * shift, 1) for shift in range(9)], 0.1)
    assert detector.config.robust_calibration is None and detector.config.figures == RecordedFigures()
    restored = ("calibration", "robust_calibration", "figures")
    changed.update_config(**{name: getattr(before, name) for name in restored})


def test_too_few_images_are_answered_with_something_possible(detector: SavedDetector) -> None:
    before = detector.calibration
    for none in ([], iter(()), torch.empty(0, 3, 32, 32)):
        with pytest.raises(ConfigError, match=r"needs 19 calibration images, there are none; give") as error:
            detector.calibrate(none)
        assert "rate of" not in str(error.value)
    with pytest.raises(ConfigError, match=r"there is 1; give more normal images, or accept a rate of 0.5 or more"):
        detector.calibrate([FRAME])
    with pytest.raises(ConfigError, match=r"there are 4; .* a rate of 0.2 or more"):
        detector.calibrate([FRAME] * 4)
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        detector.calibrate(iter([object()]), false_alarm_rate=1)
    assert detector.calibration == before


def test_a_detector_without_a_threshold_gives_no_verdict() -> None:
    made = closed_form()
    made.update_config(calibration=None)
    with pytest.raises(NotCalibratedError):
        next(made.predict(FRAME))
    made.calibrate([FRAME] * 20)
    assert not next(made.predict(FRAME)).defective


def test_methods_of_advrad_refuse_wrong_values_and_pass_gradients() -> None:
    made = learned_detector()
    images = random_images(2).requires_grad_()
    for method in (made.score, made.anomaly_maps, made.reconstruct, made):
        method(images, generator()).sum().backward()
        assert images.grad is not None and float(images.grad.abs().sum()) > 0
        images.grad = None
        with pytest.raises(DataError, match="NaN"):
            method(NAN, generator())
        with pytest.raises(DataError, match="uint8"):
            method((255 * random_images(1)).byte(), generator())
    with torch.no_grad():
        plain = made.score(images, generator())
        torch.testing.assert_close(made.score(images.double(), generator()), plain)
        torch.testing.assert_close(made.score(images.half(), generator()), plain, atol=0.1, rtol=0.1)
        outside = made.infer(images + 1, generator()).scores  # certificates add noise: values are not checked here
    assert bool(torch.isfinite(outside).all())


@pytest.mark.parametrize("entry", ["attack", "certify"])
def test_attacks_and_certificates_refuse_wrong_values(entry: str) -> None:
    labels = [0, 1]
    call = getattr(advrad, entry)
    for made in (closed_form(), lambda images: images.mean((1, 2, 3))):
        with pytest.raises(DataError, match=r"images\[1\]: .* NaN"):
            call(made, (NAN, labels))
        with pytest.raises(DataError, match=r"images\[0\]: .* divide by 255"):
            call(made, (255 * random_images(2), labels))


def test_grey_images_are_repeated_for_our_detectors_and_left_to_others() -> None:
    grey, labels = random_images(4)[:, :1], [0, 1, 0, 1]
    ours = advrad.evaluate(closed_form(), (grey, labels))
    assert ours.scores == pytest.approx(advrad.evaluate(closed_form(), (grey.repeat(1, 3, 1, 1), labels)).scores)
    seen: list[int] = []

    def other(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape[1])
        return images.mean((1, 2, 3))

    advrad.evaluate(other, (grey, labels))
    assert set(seen) == {1}


def test_frames_are_evaluated_as_their_values() -> None:
    frames = np.stack([np.roll(FRAME, 3 * shift, 1) for shift in range(4)])
    labels = [0, 1, 0, 1]
    made = closed_form()
    wanted = advrad.evaluate(made, (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255, labels)).scores
    for form in (frames, list(frames), [Image.fromarray(frame) for frame in frames]):
        assert advrad.evaluate(made, (form, labels)).scores == pytest.approx(wanted, abs=1e-6)
