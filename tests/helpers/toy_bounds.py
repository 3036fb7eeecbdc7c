"""A detector whose score bounds are known exactly, and a stored certificate, for reports and predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from advrad.certificates.bounds_evaluation import ImageBounds
from advrad.certificates.results import CertificationResult
from advrad.data.framing import Framing
from advrad.detectors.base import DetectorOutput, ScoreBounds
from advrad.detectors.config import Calibration, RecordedFigures, RobustCalibration, TrainingRecord
from advrad.detectors.outputs import Prediction
from advrad.detectors.saved import predict_images
from advrad.utils.config import Config

LEVEL = 1 / 255
RADII = (LEVEL, 2 * LEVEL)
#: Two radii and three images, with the threshold 0.5.
RESULT: dict[str, Any] = {
    "method": "bounds", "norm": "linf", "radii": RADII, "clean_auroc": 1.0, "threshold": 0.5, "category": "nut",
    "certified_auroc": {f"{RADII[0]:g}": 1.0, f"{RADII[1]:g}": 0.75},
    "certified_auroc_ci": {f"{RADII[0]:g}": [0.9, 1.0], f"{RADII[1]:g}": None},
    "verdicts": {
        f"{RADII[0]:g}": {"right": 0.625, "wrong": 0.375, "abstained": 0.0, "certified": 1.0},
        f"{RADII[1]:g}": {"right": 0.25, "wrong": 0.0, "abstained": 0.75, "certified": 0.25},
    },
    "n_good": 2, "n_defect": 1, "curve": {"radii": [0.0, *RADII], "certified_auroc": [1.0, 1.0, 0.75]}, "seconds": 1.0,
    "sticker": {"side_px": 32, "found": 0.5, "clean_found": 0.8, "auroc": 0.9},
    "sigma": None, "size": [256, 256], "rounding_l2": 0.5, "attacked": [], "folder": None, "versions": {},
    "meaning": ["Mind the scale."],
}  # fmt: skip
#: The images: name, label, score, and the largest radius of its verdict in levels.
IMAGES = (("dent/1.png", 1, 0.9, 2.5), ("good/1.png", 0, 0.4, 1.0), ("good/2.png", 0, 0.7, 0.0))


def bounds_of(name: str, label: int, score: float, levels: float) -> ImageBounds:
    return ImageBounds(
        name=name, label=label, score=score, lower=(0.0, 0.0), upper=(1.0, 1.0), radius=levels * LEVEL, seconds=0.1
    )


def proof(**changes: Any) -> CertificationResult:
    rows = changes.pop("rows", tuple(bounds_of(*image) for image in IMAGES))
    return CertificationResult.parse(RESULT | changes).model_copy(update={"rows": rows})


CALIBRATION = Calibration(threshold=0.5, false_alarm_rate=0.05, n=20, heat_low=0.3, heat_high=0.5)


class ToyConfig(Config):
    """The configuration of the toy."""

    kind: str = "closed_form"
    image_size_px: int = 32
    calibration: Calibration | None = CALIBRATION
    robust_calibration: RobustCalibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @property
    def framing(self) -> Framing:
        return Framing.square(self.image_size_px)

    def describe(self) -> list[str]:
        return ["the brightest pixel"]


@dataclass
class Brightest:
    """Scores the brightest pixel, which a perturbation of eps changes by at most eps, in linf and in l2."""

    config: ToyConfig = field(default_factory=ToyConfig)

    size_px = noise_seed = None
    deterministic = differentiable = True
    surrogates = ()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def image_size_px(self) -> int:
        return self.config.image_size_px

    @property
    def threshold(self) -> float | None:
        return None if self.config.calibration is None else self.config.calibration.threshold

    @property
    def calibration(self) -> Calibration:
        assert self.config.calibration is not None
        return self.config.calibration

    def describe(self) -> list[str]:
        return self.config.describe()

    def predict_batch(self, images: Tensor) -> DetectorOutput:
        return DetectorOutput(images.amax((1, 2, 3)), images.amax(1, keepdim=True))

    def infer(self, images: Tensor, generator: torch.Generator | None = None) -> DetectorOutput:
        return self.predict_batch(images)

    def predict(self, inputs: Any, batch_size: int = 8, max_pixels: int = 10**8) -> Iterator[Prediction]:
        return predict_images(self, inputs, batch_size, max_pixels)

    def save_pretrained(self, folder: str | Path, /) -> object:
        raise NotImplementedError

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        """Bounds of scores and maps."""
        scores, maps = images.amax((1, 2, 3)), images.amax(1, keepdim=True)
        return ScoreBounds(scores, scores - radius, scores + radius, maps - radius)


class Unbounded(Brightest):
    """The same detector without bounds, and with a reconstruction: the image itself."""

    score_bounds = None  # type: ignore[assignment]

    def predict_batch(self, images: Tensor) -> DetectorOutput:
        return DetectorOutput(images.amax((1, 2, 3)), images.amax(1, keepdim=True), images)
