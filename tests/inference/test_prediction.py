"""Prediction of files: each is read and scored once, in order, with heat maps and certificates."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_bounds import CALIBRATION, Brightest, ToyConfig

from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.prediction import ProvenPrediction, prediction_certifier
from advrad.data import decoding
from advrad.data.images import read_image
from advrad.data.png import write_image
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.loading import load_detector
from advrad.errors import DataError, ImageError
from advrad.inference import judging, prediction
from advrad.inference.heatmaps import GREEN, draw_heat_map, outline
from advrad.inference.prediction import PredictionRecord, predict_paths


@pytest.fixture(scope="module")
def detector(widget_run: Path) -> AdvRAD:
    return load_detector(widget_run, "cpu")


@pytest.fixture
def files(widgets: Path, tmp_path: Path) -> list[Path]:
    """Three files; the second is no image."""
    paths = []
    for index, name in enumerate(("test/good/000.png", "test/dent/000.png", "test/dent/001.png")):
        paths.append(Path(shutil.copy(widgets / name, tmp_path / f"{index}.png")))
    paths[1].write_text("no image")
    return paths


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often files were decoded, images scored and heat maps drawn."""
    found = {"decoded": 0, "scored": 0, "drawn": 0}
    decode, score, draw = decoding.decode, AdvRAD.predict_batch, draw_heat_map

    def counted_decode(*arguments: Any) -> Any:
        found["decoded"] += 1
        return decode(*arguments)

    def counted_score(self: AdvRAD, batch: torch.Tensor) -> Any:
        found["scored"] += len(batch)
        return score(self, batch)

    def counted_draw(*arguments: Any) -> Any:
        found["drawn"] += 1
        return draw(*arguments)

    monkeypatch.setattr(decoding, "decode", counted_decode)
    monkeypatch.setattr(AdvRAD, "predict_batch", counted_score)
    monkeypatch.setattr(judging, "draw_heat_map", counted_draw)
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predictions_come_in_order_and_errors_between(detector: AdvRAD, files: list[Path], batch_size: int) -> None:
    foreign = DataError("nowhere: holds no images")
    found = list(predict_paths(detector, [files[0], files[1], foreign, files[2]], batch_size=batch_size))
    first, broken, passed, last = found
    assert isinstance(broken, ImageError) and broken.path == files[1]
    assert passed is foreign
    assert isinstance(first, PredictionRecord) and isinstance(last, PredictionRecord)
    for record, expected in zip((first, last), detector.predict([files[0], files[2]]), strict=True):
        assert (record.path, record.score, record.defective) == (expected.path, expected.score, expected.defective)
        assert record.to_dict() == {
            "path": str(record.path),
            "score": record.score,
            "threshold": detector.calibration.threshold,
            "verdict": record.verdict,
        }
        assert record.verdict == ("defective" if record.score > record.threshold else "good")


def test_reading_ahead_changes_when_files_are_read_but_not_what_is_said(detector: AdvRAD, files: list[Path]) -> None:
    wanted = [files[0], files[1], DataError("passed on"), files[2], files[0]]
    found: dict[bool, list[object]] = {}
    for ahead in (False, True):
        asked: list[object] = []
        answers = predict_paths(detector, (asked.append(path) or path for path in wanted), read_ahead=ahead)
        first = next(answers)
        assert asked == wanted[: 2 if ahead else 1], "without it, a path is answered before the next is asked for"
        found[ahead] = [first, *answers]
        assert asked == wanted
    plain, read_ahead = ([str(answer) for answer in found[ahead]] for ahead in (False, True))
    assert plain == read_ahead and len(plain) == 5
    interrupted = predict_paths(detector, wanted, read_ahead=True)
    next(interrupted)
    interrupted.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name], "no thread is left"


def test_each_file_is_read_scored_and_drawn_once(
    detector: AdvRAD, files: list[Path], tmp_path: Path, counts: dict[str, int]
) -> None:
    certifier, _ = prediction_certifier(detector, PredictionCertificateOptions(radius=0.05, draws=40, seed=0))
    wanted = [files[0], files[2]]
    plain = list(predict_paths(detector, wanted, batch_size=2))
    assert counts == {"decoded": 2, "scored": 2, "drawn": 0}
    found = list(predict_paths(detector, wanted, batch_size=2, out=tmp_path / "out", certifier=certifier))
    assert counts == {"decoded": 4, "scored": 4, "drawn": 2}
    for record, bare in zip(found, plain, strict=True):
        assert isinstance(record, PredictionRecord) and isinstance(bare, PredictionRecord)
        assert record.score == bare.score
        assert record.certificate is not None and record.heat_map is not None and record.reconstruction is not None
        assert record.to_dict()["overlay"] == str(record.heat_map)
        assert record.to_dict()["draws"] == record.certificate.n_samples <= 40
        expected = next(iter(detector.predict(record.path)))
        heat = draw_heat_map(read_image(record.path), expected.anomaly_map, detector.calibration)
        np.testing.assert_allclose(read_image(record.heat_map), heat, atol=0.51 / 255)
        recon = expected.reconstruction.clip(0, 1)
        np.testing.assert_allclose(read_image(record.reconstruction), recon, atol=0.51 / 255)


def test_large_images_are_not_collected(
    detector: AdvRAD, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    score = AdvRAD.predict_batch

    def noted(self: AdvRAD, batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        return score(self, batch)

    monkeypatch.setattr(AdvRAD, "predict_batch", noted)
    monkeypatch.setattr(prediction, "LARGE_PIXELS", 1000)
    assert len(list(predict_paths(detector, [files[0], files[2]], batch_size=8, out=tmp_path / "out"))) == 2
    assert sizes == [1, 1]
    assert len(list(predict_paths(detector, [files[0], files[2]], batch_size=8))) == 2
    assert sizes == [1, 1, 2]


@pytest.mark.parametrize("heat_high", [0.5, 0.8])
def test_heat_maps_show_the_proven_defect_area(tmp_path: Path, heat_high: float) -> None:
    """The area is above the threshold and above what normal maps reach, within the radius of the certificate."""
    values = np.full((32, 32, 3), 0.2, dtype=np.float32)
    values[8:24, 8:24], values[12:20, 12:20] = 0.7, 1.0
    write_image(tmp_path / "part.png", values)
    detector = Brightest(ToyConfig(calibration=CALIBRATION.model_copy(update={"heat_high": heat_high})))

    def certifier(name: str, image: torch.Tensor, scored: torch.Tensor) -> ProvenPrediction:
        bounds = detector.score_bounds(scored[None], 0.1, "linf")
        lower_map = bounds.lower_map[0, 0].numpy()
        return ProvenPrediction("proven defective", "linf", 0.1, 0.5, 0.5, 0.9, 1.1, lower_map)

    drawn = []
    for given in (None, certifier):
        [record] = predict_paths(detector, [tmp_path / "part.png"], out=tmp_path / str(given is None), certifier=given)
        assert isinstance(record, PredictionRecord) and record.heat_map is not None
        assert "lower_map" not in record.to_dict()
        drawn.append(read_image(record.heat_map))
    area = values.max(axis=2) - 0.1 > max(0.5, heat_high)
    np.testing.assert_allclose(drawn[1], outline(drawn[0], area, GREEN, broken=True), atol=1 / 255)
    assert not np.array_equal(drawn[0], drawn[1])
