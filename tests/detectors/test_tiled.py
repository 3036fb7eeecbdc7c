"""The detector of tiles: scores and maps of the worst tile, bounds, gradients, and the model folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from tiny_closed_forms import detector_of, draws, memory_like
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.base import SupportsScoreBounds, SupportsStickerBounds
from advrad.detectors.config import Calibration
from advrad.detectors.loading import load_detector
from advrad.detectors.tiled import TiledDetector
from advrad.detectors.tiled_config import TiledConfig, tile_starts
from advrad.detectors.views import WholeConfig, WholeView
from advrad.errors import CheckpointError

CALIBRATION = Calibration(threshold=1.0, false_alarm_rate=0.05, n=20, heat_low=0.3, heat_high=1.0)


@pytest.fixture(scope="module")
def detector() -> TiledDetector:
    """Tiles of 16 px of images of 16 x 56 px, in cells of 2 px."""
    memory = MemoryConfig(height_cells=8, width_cells=8, patch_cells=3, window_cells=(1, 1), stride_cells=1)
    sheets = memory_like(memory, torch.full((3, 8, 8), 0.5), 4, 0.05, draws(0))
    base = detector_of(WholeView(WholeConfig(size_px=16, cell_px=2)), memory, sheets, generator=draws(1))
    base.update_config(image_size_px=16)
    config = TiledConfig(base=base.config, height_px=16, width_px=56, calibration=CALIBRATION)
    return TiledDetector(config, base).eval()


def images(count: int = 2, height: int = 16, width: int = 56) -> Tensor:
    return (0.5 + 0.1 * torch.randn(count, 3, height, width, generator=draws(2))).clamp(0, 1)


@pytest.mark.parametrize("length", [16, 17, 28, 40, 133, 1000])
def test_tiles_cover_the_side_and_overlap(length: int) -> None:
    starts = tile_starts(length, 16)
    assert starts[0] == 0 and starts[-1] == length - 16
    assert all(one < other <= one + 13 for one, other in itertools.pairwise(starts))
    assert len(starts) <= 2 + (length - 16) / 12, "no more tiles than needed"


def test_the_worst_tile_decides(detector: TiledDetector) -> None:
    given = images()
    found = detector.infer(given)
    tiles = [given[:, :, :, column : column + 16] for _, column in detector.config.corners]
    each = torch.stack([detector.base.infer(tile).scores for tile in tiles])
    assert torch.equal(found.scores, each.amax(0))
    assert found.anomaly_maps is not None and found.anomaly_maps.shape == (2, 1, 16, 56)
    # At each pixel the largest value of the tiles that hold it.
    for column in range(56):
        holding = [
            part.anomaly_maps[:, :, :, column - start]
            for (_, start), tile in zip(detector.config.corners, tiles, strict=True)
            if start <= column < start + 16 and (part := detector.base.infer(tile)).anomaly_maps is not None
        ]
        assert torch.equal(found.anomaly_maps[:, :, :, column], torch.stack(holding).amax(0))


def test_a_defect_is_found_wherever_it_lies(detector: TiledDetector) -> None:
    good = torch.full((1, 3, 16, 56), 0.5)
    for column in (0, 13, 26, 40, 52):
        bad = good.clone()
        bad[:, :, 6:10, column : column + 4] = 1.0
        found = detector.predict_batch(bad)
        assert float(found.scores) > float(detector.predict_batch(good).scores) + 0.5
        assert found.anomaly_maps is not None
        assert abs(int(found.anomaly_maps[0, 0].amax(0).argmax()) - column - 2) <= 6


def test_rows_do_not_depend_on_the_batch(detector: TiledDetector) -> None:
    given = images(3)
    whole, alone = detector.predict_batch(given), [detector.predict_batch(image[None]) for image in given]
    assert torch.equal(whole.scores, torch.cat([part.scores for part in alone]))


@pytest.mark.parametrize(("height", "width"), [(16, 56), (20, 64), (40, 150)])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.02), ("l2", 0.4)])
def test_no_change_of_the_image_leaves_the_bounds(
    detector: TiledDetector, height: int, width: int, norm: str, radius: float
) -> None:
    assert isinstance(detector, SupportsScoreBounds) and not isinstance(detector, SupportsStickerBounds)
    given = images(1, height, width)
    bounds = detector.score_bounds(given, radius, norm)  # type: ignore[arg-type]
    plain = detector.predict_batch(given)
    assert float(bounds.lower) < float(plain.scores) == float(bounds.scores) < float(bounds.upper)
    reached = []
    for step in range(12):
        point = given.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.infer(point).scores.sum(), point)
        sign = 1 if step % 2 else -1
        if norm == "linf":
            random = torch.randint(0, 2, given.shape, generator=draws(step)).mul(2).sub(1)
            change = radius * (gradient.sign() * sign if step < 2 else random)
        else:
            random = torch.randn(given.shape, generator=draws(step))
            change = gradient * sign if step < 2 else random
            change = radius * change / change.norm()
        found = detector.predict_batch(given + change)
        assert float(bounds.lower) <= float(found.scores) <= float(bounds.upper)
        assert found.anomaly_maps is not None and (found.anomaly_maps >= bounds.lower_map).all()
        reached.append(float(found.scores))
    # A bound of half the radius would be left: the changes are strong enough to notice a wrong constant.
    half = detector.score_bounds(given, radius / 4, norm)  # type: ignore[arg-type]
    assert max(reached) > float(half.upper) or min(reached) < float(half.lower)


def test_the_gradient_is_that_of_the_worst_tile(detector: TiledDetector) -> None:
    point = images(1).requires_grad_()
    found = detector.infer(point)
    (gradient,) = torch.autograd.grad(found.scores.sum(), point)
    assert gradient.abs().sum() > 0
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        change = float(detector.infer(point + step).scores - found.scores)
    assert change == pytest.approx(1e-3 * float(gradient.norm()), rel=0.1)
    for loss in detector.surrogates.values():
        (gradient,) = torch.autograd.grad(loss(point, draws(0)).sum(), point)
        touched = gradient.abs().amax((0, 1, 2)) > 0
        assert touched[:14].any() and touched[-14:].any(), "all tiles count"


def test_the_model_folder_is_read_again(detector: TiledDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "run")
    loaded = load_detector(tmp_path / "run")
    assert isinstance(loaded, TiledDetector) and loaded.config == detector.config
    given = images()
    assert torch.equal(loaded.predict_batch(given).scores, detector.predict_batch(given).scores)
    assert "tiles of 16 px" in loaded.describe()[0]
    (prediction, _) = loaded.predict(given)
    assert prediction.anomaly_map.shape == (16, 56)
    with pytest.raises(CheckpointError, match="copy the folder again"):
        (tmp_path / "run" / "config.json").write_text(
            (tmp_path / "run" / "config.json").read_text().replace('"height_cells": 8', '"height_cells": 7')
        )
        load_detector(tmp_path / "run")
