"""Fitting a detector of tiles: what the images of the threshold must not touch, how many are needed, and commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advrad.data.framing import Framing
from advrad.data.loading import ImageStack
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.records import Record
from advrad.data.splits import normals_for_tiles
from advrad.detectors.loading import load_detector
from advrad.detectors.tiled import TiledDetector
from advrad.errors import ConfigError
from advrad.inference import evaluate
from advrad.training.closed_form_plan import MemberPlan
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.recalibrate import calibrate
from advrad.training.run import train
from advrad.training.tiled_fit import fit_tiled

PLAN = MemberPlan(name="small", size_px=16, cell_px=2, patch_cells=3, stride_cells=1, window_cells=(1, 1))
FRAMING = Framing(16, 80, tile_px=16)


def lines(count: int, seed: int = 0) -> ImageStack:
    """Noisy images, 16 x 80 px."""
    values = 30000 + 2000 * np.random.default_rng(seed).standard_normal((count, 3, 16, 80))
    records = tuple(Record(Path(f"{index}.png"), "train", 0, "good") for index in range(count))
    return ImageStack(values.astype(np.uint16), records)


def test_images_of_the_threshold_give_nothing_to_the_memory() -> None:
    images = lines(30)
    first = fit_tiled(images, FRAMING, [PLAN], seed=3)
    held = first.config.held_out
    assert len(held) == 19 == first.calibration.n and first.config.training.images is not None
    expected = PictureReference.of(picture_statistics(images.batch([row])[0]) for row in held)
    assert first.calibration.picture_statistics == expected
    assert first.config.training.images.train == 11
    # Whatever those images show, memory and statistics stay the same, and the threshold follows their scores.
    values = np.array(images.values)
    values[list(held)] = 65535 - values[list(held)] // 2
    other = fit_tiled(ImageStack(values, images.records), FRAMING, [PLAN], seed=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert other.calibration.threshold > first.calibration.threshold + 1
    scores = first.predict_batch(images.batch(list(held))).scores
    assert float(scores.max()) == pytest.approx(first.calibration.threshold)


def test_a_small_defect_anywhere_is_found() -> None:
    detector = fit_tiled(lines(40), FRAMING, [PLAN])
    new = lines(8, seed=9).batch(slice(None))
    assert int((detector.predict_batch(new).scores > detector.threshold).sum()) <= 1
    for column in (0, 14, 40, 76):
        bad = new[:1].clone()
        bad[:, :, 6:10, column : column + 4] = 0.9
        (prediction,) = detector.predict(bad)
        assert prediction.defective


def test_too_few_images_are_refused_with_their_number() -> None:
    assert normals_for_tiles(0.05) == 23
    with pytest.raises(
        ConfigError, match=r"needs 23 different normal images where they are cut into tiles .*there are 22"
    ):
        fit_tiled(lines(22), FRAMING, [PLAN])
    assert fit_tiled(lines(23), FRAMING, [PLAN]).calibration.n == 19


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 160 x 32 px: 30 for training, and two of each class for tests."""
    place = tmp_path_factory.mktemp("lines")
    rng = np.random.default_rng(0)
    for part, count in (("train/good", 30), ("test/good", 2), ("test/hole", 2)):
        (place / part).mkdir(parents=True)
        for index in range(count):
            values = 120 + rng.normal(0, 8, (32, 160))
            if part == "test/hole":
                values[12:20, 60 + 40 * index : 68 + 40 * index] = 250
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(place / part / f"{index:03}.png")
    for index in range(2):
        mask = np.zeros((32, 160), np.uint8)
        mask[12:20, 60 + 40 * index : 68 + 40 * index] = 255
        (place / "ground_truth" / "hole").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place / "ground_truth" / "hole" / f"{index:03}_mask.png")
    return place


@pytest.fixture
def small_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plan in place of a choice, which takes longer."""
    monkeypatch.setattr("advrad.training.closed_form.choose_plans", lambda *_: ([PLAN], []))


@pytest.mark.usefixtures("small_plans")
def test_long_images_are_trained_evaluated_and_calibrated_as_tiles(folder: Path, tmp_path: Path) -> None:
    detector = train(folder, tmp_path / "run", size_px=16)
    assert isinstance(detector, TiledDetector) and (detector.config.height_px, detector.config.width_px) == (16, 80)
    shapes = detector.config.training.shapes
    assert shapes is not None and shapes.width_px == (160, 160)
    plan = json.loads((tmp_path / "run" / "training" / "plan.json").read_text())
    assert plan["shape"] == "tiles" and plan["tile_px"] is None
    found = evaluate(load_detector(tmp_path / "run"), folder)
    assert found.image_auroc == 1.0 and found.pixel_auroc is not None and found.pixel_auroc > 0.9
    assert found.maps is not None and found.maps.shape[1:] == (16, 80)
    again = calibrate(tmp_path / "run", folder, CalibrateOptions(radius=0.001), tmp_path / "again")
    assert again.calibration.threshold == pytest.approx(detector.calibration.threshold)
    robust = again.config.robust_calibration
    assert robust is not None and robust.threshold > again.calibration.threshold


@pytest.mark.usefixtures("small_plans")
def test_tiles_of_a_chosen_side(folder: Path) -> None:
    detector = train(folder, options=RunOptions.parse({"size_px": 16, "tile": 16}))
    assert isinstance(detector, TiledDetector) and (detector.config.height_px, detector.config.width_px) == (32, 160)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tile": 40}, "tile_px 40: is larger than the shorter side of the images, 32 px"),
        ({"tile": 16, "shape": "pad"}, "belongs to the shape tiles"),
        ({"steps": 2}, "which only the closed form takes"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(folder: Path, values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(folder, options=RunOptions.parse({"size_px": 64} | values))
