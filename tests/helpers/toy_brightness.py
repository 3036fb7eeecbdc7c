"""A detector with exact bounds, which are easily computed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.detectors.base import DetectorOutput, ScoreBounds, SurrogateLoss
from advrad.detectors.config import RobustCalibration


@dataclass
class Brightness:
    """Scores the mean value, which a perturbation of eps changes by exactly eps.

    Attributes:
        threshold: Threshold of the score.
        honesty: Share of the true reach that the bounds admit; below 1 they are wrong.
        robust: Threshold that was set for attacks.
        asked: Radii for which bounds were computed.
    """

    threshold: float | None = 0.5
    honesty: float = 1.0
    robust: RobustCalibration | None = None
    asked: list[float] = field(default_factory=list)

    size_px = None
    deterministic = True
    differentiable = True
    noise_seed = None

    @property
    def surrogates(self) -> dict[str, SurrogateLoss]:
        return {}

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(robust_calibration=self.robust)

    def infer(self, images: Tensor, generator: torch.Generator | None = None) -> DetectorOutput:
        return DetectorOutput(images.mean((1, 2, 3)))

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        self.asked.append(radius)
        scores = images.mean((1, 2, 3))
        reach = self.honesty * (1e-6 + (radius if norm == "linf" else radius / images[0].numel() ** 0.5))
        return ScoreBounds(scores, scores - reach, scores + reach, images.mean(1, keepdim=True) - reach)

    def sticker_bounds(self, images: Tensor, side_px: int) -> Tensor:
        """A black sticker lowers the mean most."""
        windows = F.avg_pool2d(images, side_px, 1).mean(1).flatten(1).amax(1)
        return images.mean((1, 2, 3)) - windows * side_px**2 / images[0, 0].numel()


def flat(*values: float) -> Tensor:
    """Images of one colour each, 16 px."""
    return torch.stack([torch.full((3, 16, 16), value) for value in values])
