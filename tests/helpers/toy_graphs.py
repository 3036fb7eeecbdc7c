"""Detectors of every kind that can be exported, tiny and with thresholds; and images of 8 bits for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tiny_closed_forms
import torch
import toy_feature_detectors
import toy_guarded
import toy_models
from torch import Tensor

from advrad.denoisers.ddpm import PRESETS, build
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.combined import CombinedConfig, CombinedDetector
from advrad.detectors.config import Calibration, DetectorConfig
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.saved import SavedDetector
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.tiled import TiledDetector
from advrad.detectors.tiled_config import TiledConfig
from advrad.detectors.views import WholeConfig, WholeView

SIZE_PX = 32
#: Heights and widths of images: the working size, larger, smaller, long, and of odd sides.
SHAPES = ((32, 32), (70, 50), (17, 23), (64, 200), (33, 31))

Pixels = npt.NDArray[np.uint8]


def pixels(height: int, width: int, seed: int = 0) -> Pixels:
    """An image, (height, width, 3) uint8: the ramp of the toy product, with noise and hard edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = 75 + 75 * y / height + 30 * ((x // 5 + y // 7) % 2)
    noisy = image[..., None] + rng.normal(0, 8, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def as_tensor(image: Pixels) -> Tensor:
    """The image as a graph takes it, (1, h, w, 3) uint8."""
    return torch.from_numpy(image)[None]


def _threshold(value: float) -> Calibration:
    return Calibration(threshold=value, false_alarm_rate=0.1, n=19, heat_low=0.0, heat_high=1.0)


def closed_form() -> ClosedFormDetector:
    detector = toy_guarded.closed_form(toy_guarded.normals(8, 0))
    detector.update_config(calibration=_threshold(0.05))
    return detector


def chosen_patches() -> ClosedFormDetector:
    """A closed form whose patches are compared with those that were chosen for each, as for textures."""
    view = WholeView(WholeConfig(size_px=SIZE_PX, cell_px=4))
    memory = MemoryConfig(height_cells=8, width_cells=8, patch_cells=3, window_cells=(2, 2), chosen_patches=5, gain=0.1)
    sheets = PatchMemory.quantised(view.sheets(toy_guarded.normals(8, 0))[:, 0])
    detector = tiny_closed_forms.detector_of(view, memory, sheets, generator=toy_models.generator(2))
    detector.update_config(image_size_px=SIZE_PX, calibration=_threshold(0.05))
    return detector


#: Views of two sizes, two of one size, with two draws each, in an order that sizes do not follow.
SCORE = ScoreConfig(
    views=(
        NoiseView(view_px=16, sigma=0.4),
        NoiseView(view_px=32, sigma=0.2),
        NoiseView(view_px=16, sigma=0.1),
    ),
    scales="separate",
    normalise_by_image_mean=True,
    normalisation="spread",
    pooling=0.01,
    draws=2,
    map_filter_px=3,
)


def learned(score: ScoreConfig = SCORE, **config: object) -> AdvRAD:
    return toy_models.detector(score, **config)


def learned_ddpm() -> AdvRAD:
    """A DDPM with several steps, and the maps of the paper."""
    score = ScoreConfig(views=(NoiseView(view_px=16, sigma=0.2),), normalisation="mean", steps=3, draws=2)
    config = DetectorConfig(denoiser=PRESETS["tiny"], size_px=32, score=score, precision="float32")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = build(PRESETS["tiny"])
    detector = AdvRAD(denoiser, config, toy_models.statistics(score)).eval()
    detector.update_config(calibration=_threshold(0.3))
    return detector


def combined() -> CombinedDetector:
    memory, part = closed_form(), learned(calibrated=False)
    config = CombinedConfig(memory=memory.config, learned=part.config, weight=0.3, low=-0.5, high=0.7)
    detector = CombinedDetector(config, memory, part).eval()
    detector.update_config(calibration=_threshold(0.1))
    return detector


def features() -> FeatureDetector:
    detector = toy_feature_detectors.quick_detector()
    detector.update_config(calibration=_threshold(1.0))
    return detector


def guarded() -> GuardedDetector:
    from advrad.detectors.wrappers import as_detector

    return toy_guarded.guarded(features(), as_detector(learned()), ceiling=0.5)


def tiled() -> TiledDetector:
    base = closed_form()
    config = TiledConfig(base=base.config, height_px=48, width_px=88, calibration=_threshold(0.05))
    return TiledDetector(config, base).eval()


#: Functions that make a detector, by the name of its kind.
KINDS = {
    "closed_form": closed_form,
    "chosen_patches": chosen_patches,
    "learned": learned,
    "learned_ddpm": learned_ddpm,
    "combined": combined,
    "features": features,
    "guarded": guarded,
    "tiled": tiled,
}


def made(kind: str) -> SavedDetector:
    """A detector of a kind."""
    detector: SavedDetector = KINDS[kind]()  # type: ignore[assignment]
    return detector
