"""The closed-form detector: scores, bounds under attack, verdicts, and the model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import advrad
from advrad.detectors.base import SupportsScoreBounds
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.errors import CheckpointError, ConfigError, DataError, NotCalibratedError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan

PLAN = MemberPlan(name="small", size_px=16, cell_px=2, patch_cells=3, window_cells=(1, 1), stride_cells=1)
TEXTURE = MemberPlan(name="texture", size_px=16, cell_px=1, patch_cells=3, window_cells=None, patches=300)


def normal_images(count: int = 32, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    common = 0.3 + 0.3 * torch.rand(1, 3, 16, 16, generator=draws)
    return (common + 0.02 * torch.randn(count, 3, 16, 16, generator=draws)).clamp(0, 1)


def anomalous_images(count: int = 4) -> Tensor:
    images = normal_images()[:count].clone()
    images[:, :, 4:9, 6:11] += 0.25
    return images.clamp(0, 1)


@pytest.fixture(scope="module", params=["one member", "two members"])
def detector(request: pytest.FixtureRequest) -> ClosedFormDetector:
    return fit_closed_form(normal_images(), [PLAN] if request.param == "one member" else [PLAN, TEXTURE])


def test_it_finds_a_spot_where_it_is(detector: ClosedFormDetector) -> None:
    normal, anomalous = detector.predict_batch(normal_images()), detector.predict_batch(anomalous_images())
    assert float(anomalous.scores.min()) > float(normal.scores.max())
    assert anomalous.anomaly_maps is not None
    row, column = divmod(int(anomalous.anomaly_maps[0, 0].argmax()), 16)
    assert 3 <= row <= 10 and 5 <= column <= 12


@pytest.mark.parametrize(("norm", "radius"), [("linf", 2 / 255), ("linf", 0.05), ("l2", 0.3)])
def test_attacks_stay_within_the_bounds(detector: ClosedFormDetector, norm: str, radius: float) -> None:
    images = torch.cat([normal_images()[:3], anomalous_images(3)])
    bounds = detector.score_bounds(images, radius, norm)  # type: ignore[arg-type]
    assert bool((bounds.lower <= bounds.scores).all()) and bool((bounds.scores <= bounds.upper).all())
    assert bool((bounds.lower < bounds.scores).any()) and bool((bounds.upper > bounds.scores).any())
    result = advrad.attack(detector, (images, [0] * 3 + [1] * 3), norm=norm, eps=radius, budget="quick")
    for row, low, high in zip(result.rows, bounds.lower.tolist(), bounds.upper.tolist(), strict=True):
        assert low <= row.worst <= high, row


@pytest.mark.parametrize(
    ("radius", "norm", "words"),
    [
        (2 / 255, "Linf", "norm Linf: must be linf or l2"),
        (2 / 255, "l1", "norm l1: must be linf or l2"),
        (-0.1, "linf", r"radius -0\.1: must be 0 or more"),
        (float("nan"), "l2", "radius nan: must be 0 or more"),
    ],
)
def test_perturbations_that_make_no_sense_are_refused(
    detector: ClosedFormDetector, radius: float, norm: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        detector.score_bounds(normal_images(1), radius, norm)


@pytest.mark.parametrize("side_px", [0, -5])
def test_a_sticker_without_a_side_is_refused(detector: ClosedFormDetector, side_px: int) -> None:
    with pytest.raises(ConfigError, match=f"side_px {side_px}: must be 1 or more"):
        detector.sticker_bounds(normal_images(1), side_px)


def test_no_images_have_no_scores_and_no_bounds(detector: ClosedFormDetector) -> None:
    none = normal_images(1)[:0]
    output, bounds = detector.predict_batch(none), detector.score_bounds(none, 0.1, "linf")
    assert output.anomaly_maps is not None
    assert output.scores.shape == bounds.lower.shape == detector.sticker_bounds(none, 2).shape == (0,)
    assert output.anomaly_maps.shape == bounds.lower_map.shape == (0, 1, 16, 16)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_double_precision_is_rounded_and_the_bounds_allow_for_it(detector: ClosedFormDetector, norm: Any) -> None:
    images = anomalous_images(2)
    assert torch.equal(detector.infer(images.double(), None).scores, detector.infer(images, None).scores)
    assert torch.equal(detector.sticker_bounds(images.double(), 2), detector.sticker_bounds(images, 2))
    single, double = detector.score_bounds(images, 0.01, norm), detector.score_bounds(images.double(), 0.01, norm)
    assert bool((double.lower <= single.lower).all()) and bool((double.upper >= single.upper).all())
    assert torch.allclose(double.lower, single.lower, atol=1e-4)


def test_an_image_of_another_size_is_bounded_too(detector: ClosedFormDetector) -> None:
    image = torch.nn.functional.interpolate(anomalous_images(1), size=(23, 40), mode="nearest")
    bounds, eps = detector.score_bounds(image, 0.02, "linf"), 0.02
    draws = torch.Generator().manual_seed(4)
    for _ in range(20):
        score = float(detector.infer(image + eps * torch.randn(image.shape, generator=draws).sign()).scores)
        assert float(bounds.lower) <= score <= float(bounds.upper)


def test_it_is_an_anomaly_detector_with_bounds(detector: ClosedFormDetector) -> None:
    assert isinstance(detector, SupportsScoreBounds)
    result = advrad.evaluate(detector, (torch.cat([normal_images()[:4], anomalous_images()]), [0] * 4 + [1] * 4))
    assert result.image_auroc == 1.0 and result.tpr == 1.0
    assert detector.threshold == detector.calibration.threshold


def test_without_a_threshold_it_gives_no_verdicts() -> None:
    detector = fit_closed_form(normal_images(), [PLAN])
    detector.update_config(calibration=None)
    assert detector.threshold is None
    with pytest.raises(NotCalibratedError, match="gives no verdicts; fit it on more normal images"):
        next(detector.predict(normal_images(1)))


def test_gradients_are_those_of_the_score(detector: ClosedFormDetector) -> None:
    image = anomalous_images(1).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.infer(image).scores.sum(), image)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        rise = float(detector.infer(image + step).scores - detector.infer(image - step).scores) / 2e-3
    assert rise == pytest.approx(float(gradient.norm()), rel=0.05)


def test_a_saved_detector_scores_and_decides_the_same(detector: ClosedFormDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "run")
    again = ClosedFormDetector.from_pretrained(tmp_path / "run")
    images = anomalous_images()
    assert torch.equal(again.predict_batch(images).scores, detector.predict_batch(images).scores)
    assert again.config == detector.config
    assert again.state_dict()["members.0.memory.sheets"].dtype == torch.uint8


def test_another_kind_of_model_is_refused(detector: ClosedFormDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"kind": "lean"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not a closed-form detector"):
        ClosedFormDetector.from_pretrained(tmp_path / "run")
    with pytest.raises(CheckpointError, match="lean"):
        advrad.AdvRAD.from_pretrained(tmp_path / "run")


def test_every_kind_is_loaded_under_the_name_of_the_first(detector: ClosedFormDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "run")
    again: object = advrad.AdvRAD.from_pretrained(tmp_path / "run")
    assert isinstance(again, ClosedFormDetector)
    images = anomalous_images()
    assert torch.equal(again.predict_batch(images).scores, detector.predict_batch(images).scores)
    with pytest.raises(ConfigError, match="device cuda"):
        advrad.AdvRAD.from_pretrained(tmp_path / "run", map_location="cuda")


def test_images_of_a_wrong_shape_are_refused(detector: ClosedFormDetector) -> None:
    with pytest.raises(DataError, match="expected"):
        detector.infer(torch.zeros(1, 1, 16, 16))


def test_an_image_with_too_many_pixels_for_bounds_is_refused(detector: ClosedFormDetector) -> None:
    assert float(detector.score_bounds(torch.rand(1, 3, 640, 16), 0.01, "linf").upper) > 0
    with pytest.raises(DataError, match="an image of 16 x 641 px is too large for bounds at 16 x 16 px"):
        detector.score_bounds(torch.rand(1, 3, 641, 16), 0.01, "linf")
