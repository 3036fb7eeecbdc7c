"""Images of other shapes: padded ones keep their proofs, maps and masks; those unlike the training are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_closed_forms import detector_of, draws, memory_like
from torch import Tensor
from toy_models import TWO_VIEWS, random_denoiser, statistics

from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.prediction import ProvenPrediction, prediction_certifier
from advrad.certificates.two_path import TwoPath
from advrad.data.framing import Framing
from advrad.data.labelled import load_labelled
from advrad.data.options import DataOptions
from advrad.data.resize_norm import framed_norm
from advrad.data.shapes import ShapeRecord
from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import Calibration, DetectorConfig, TrainingRecord
from advrad.detectors.views import WholeConfig, WholeView
from advrad.errors import DataError, ImageError, ImageWarning
from advrad.inference import evaluate
from advrad.inference.prediction import PredictionRecord, predict_paths

CALIBRATION = Calibration(threshold=2.0, false_alarm_rate=0.05, n=20, heat_low=0.3, heat_high=2.0)
WIDE = (20, 60)


@pytest.fixture
def padded() -> ClosedFormDetector:
    """A detector of 32 px that pads, trained on images of 60 x 20 px."""
    memory = MemoryConfig(height_cells=16, width_cells=16, patch_cells=3, window_cells=(1, 1), stride_cells=1)
    sheets = memory_like(memory, torch.full((3, 16, 16), 0.5), 4, 0.05, draws(0))
    made = detector_of(WholeView(WholeConfig(size_px=32, cell_px=2)), memory, sheets, generator=draws(1))
    shapes = ShapeRecord.of([(60, 20)])
    made.update_config(image_size_px=32, pad=True, calibration=CALIBRATION, training=TrainingRecord(shapes=shapes))
    return made


def pixels(height: int = 20, width: int = 60, seed: int = 0) -> Tensor:
    return (0.5 + 0.1 * torch.randn(1, 3, height, width, generator=draws(seed))).clamp(0, 1)


def save(path: Path, height: int, width: int, spot: tuple[int, int] | None = None) -> Path:
    values = pixels(height, width)[0].permute(1, 2, 0).numpy() * 255
    if spot is not None:
        values[spot[0] : spot[0] + 6, spot[1] : spot[1] + 6] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.02), ("l2", 0.4)])
def test_bounds_go_through_padding(padded: ClosedFormDetector, norm: str, radius: float) -> None:
    given = pixels()
    given[:, :, 6:14, 20:34] = 0.9  # a defect, whose score follows the pixels steadily
    framing = padded.framing
    assert torch.equal(padded.infer(given).scores, padded.infer(framing.apply(given)).scores)
    certifier, _ = prediction_certifier(
        padded, PredictionCertificateOptions.parse({"norm": norm, "radius": str(radius)})
    )
    found = certifier("a", given[0], framing.apply(given)[0])
    assert isinstance(found, ProvenPrediction)
    bounds = padded.score_bounds(given, radius, norm)  # type: ignore[arg-type]
    assert (float(bounds.lower), float(bounds.upper)) == pytest.approx((found.lower, found.upper), rel=1e-3)
    reached = []
    for step in range(12):
        point = given.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(padded.infer(point).scores.sum(), point)
        random = torch.randn(given.shape, generator=draws(step))
        change = random if step > 1 else gradient * (-1 if step else 1)
        change = change.sign() * radius if norm == "linf" else change * radius / change.norm()
        reached.append(float(padded.infer(given + change).scores))
    assert found.lower <= min(reached) and max(reached) <= found.upper
    weaker = padded.score_bounds(given, radius / 4, norm)  # type: ignore[arg-type]
    assert max(reached) > float(weaker.upper), "the changes are strong enough to notice a wrong constant"
    assert padded.sticker_bounds(given, 4).item() == -torch.inf, "nothing is proven of stickers through padding"


def test_the_learned_detector_pads_and_its_certificate_knows() -> None:
    config = DetectorConfig(
        denoiser=random_denoiser().config,
        size_px=32,
        pad=True,
        score=TWO_VIEWS,
        precision="float32",
        calibration=CALIBRATION,
    )
    detector = AdvRAD(random_denoiser(), config, statistics(TWO_VIEWS))
    given = pixels()
    wanted = detector.predict_batch(Framing.square(32, pad=True).apply(given))
    assert torch.equal(detector.predict_batch(given).scores, wanted.scores)
    views = TWO_VIEWS.views
    norms = [framed_norm(*WIDE, detector.framing, view.view_px) / view.sigma for view in views]
    assert TwoPath(detector).shifts(*WIDE) == pytest.approx(norms)
    (prediction,) = detector.predict(given)
    assert prediction.reconstruction is not None and prediction.reconstruction.shape == (11, 32, 3)


def test_heat_maps_and_maps_leave_the_padding_out(padded: ClosedFormDetector, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", *WIDE, spot=(2, 50))
    (prediction,) = padded.predict(path)
    assert prediction.anomaly_map.shape == (11, 32) and prediction.defective
    assert prediction.anomaly_map.max(0).argmax() > 24
    (record,) = predict_paths(padded, [path], out=tmp_path / "maps")
    assert isinstance(record, PredictionRecord) and record.heat_map is not None
    with Image.open(record.heat_map) as drawn:
        assert drawn.size == (60, 20)


def folder(place: Path) -> Path:
    for index in range(3):
        save(place / "test" / "good" / f"{index}.png", *WIDE)
        save(place / "test" / "spot" / f"{index}.png", *WIDE, spot=(2, 10 + 15 * index))
        mask = np.zeros(WIDE, np.uint8)
        mask[2:8, 10 + 15 * index : 16 + 15 * index] = 255
        (place / "ground_truth" / "spot").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place / "ground_truth" / "spot" / f"{index}_mask.png")
    for index in range(2):
        save(place / "train" / "good" / f"{index}.png", *WIDE)
    return place


def test_pixel_figures_leave_the_padding_out(padded: ClosedFormDetector, tmp_path: Path) -> None:
    data = folder(tmp_path)
    loaded = load_labelled(data, padded.framing)
    assert loaded.size == (32, 32) and loaded.masks is not None
    outside = np.ones((32, 32), bool)
    outside[loaded.windows[0]] = False
    assert not loaded.masks[:, outside].any() and loaded.masks.any()
    found = evaluate(padded, data)
    assert found.image_auroc == 1.0 and found.masks is not None and found.maps is not None
    shares = [mask.mean() for mask, label in zip(found.masks, found.labels, strict=True) if label]
    assert shares == pytest.approx([36 / 1200] * 3, rel=0.4), "of the image, not of the square"
    assert found.pixel_auroc is not None and found.pixel_auroc > 0.9


def test_other_shapes_are_refused_or_left_out_in_an_evaluation(padded: ClosedFormDetector, tmp_path: Path) -> None:
    data = folder(tmp_path)
    odd = save(data / "test" / "good" / "odd.png", 40, 40)
    save(data / "test" / "good" / "slim.png", 20, 70)
    with pytest.raises(ImageError, match=r"40 x 40 px, but the model was trained on images of 60 x 20 px"):
        evaluate(padded, data)
    found = evaluate(padded, data, options=DataOptions(skip_bad=True))
    assert [error.path for error in found.skipped] == [odd]
    assert found.n_normal == 4 and any("slim.png: is 70 x 20 px" in text for text in found.warnings)


def test_other_shapes_are_refused_or_named_in_predict(padded: ClosedFormDetector, tmp_path: Path) -> None:
    good, slim, odd = (save(tmp_path / f"{w}.png", h, w) for h, w in (WIDE, (20, 70), (40, 40)))
    found = list(predict_paths(padded, [good, slim, odd]))
    assert isinstance(found[0], PredictionRecord) and found[0].warning is None and "warning" not in found[0].to_dict()
    assert (
        isinstance(found[1], PredictionRecord) and "70 x 20 px" in json.loads(json.dumps(found[1].to_dict()))["warning"]
    )
    assert isinstance(found[2], ImageError)
    with pytest.raises(ImageError, match="cut it to the shape"):
        list(padded.predict(odd))
    with pytest.warns(ImageWarning, match="aspect ratio differs by a factor of 1.17"):
        list(padded.predict([good, slim]))
    for given in (np.zeros((40, 40, 3), np.uint8), Image.new("RGB", (40, 40))):
        with pytest.raises(DataError, match="40 x 40 px, but the model was trained"):
            list(padded.predict(given))
    with pytest.raises(DataError, match="60 x 20 px"):
        list(padded.predict(torch.rand(1, 3, 64, 30)))
    assert len(list(padded.predict(torch.rand(2, 3, 40, 40)))) == 2, "a square tensor was probably scaled before"
    padded.update_config(training=TrainingRecord())
    assert len(list(padded.predict([odd, slim]))) == 2, "older models do not know the shapes"
