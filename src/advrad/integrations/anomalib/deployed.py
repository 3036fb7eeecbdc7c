"""The part of our anomalib model that is exported: from images to scores, in a graph that draws nothing."""

from __future__ import annotations

import torch
from anomalib.data import InferenceBatch
from anomalib.pre_processing import PreProcessor
from torch import Tensor, nn

from advrad.data.transforms import resize
from advrad.denoisers.sampling import StoredNoise
from advrad.detectors.advrad import AdvRAD
from advrad.errors import NotCalibratedError


class Deployed(nn.Module):
    """The detector as a graph without a source of randomness: its noise, always the same, is stored.

    The noise follows from the detector's seed, so it is stored in exported graphs but not in checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detector: AdvRAD | None = None

    def install(self, detector: AdvRAD) -> None:
        """Take a detector and draw its noise."""
        self.detector = detector
        for name in [name for name, _ in self.named_buffers(recurse=False)]:
            delattr(self, name)
        score = detector.detector_config.score
        generator = torch.Generator().manual_seed(detector.detector_config.noise_seed)
        # In the order in which the score asks for it: look by look, draw by draw, step by step.
        sides = [look.view_px for look in score.looks for _ in range(score.draws * score.steps)]
        for index, side in enumerate(sides):
            draw = torch.randn(1, 3, side, side, generator=generator).to(detector.device)
            self.register_buffer(f"noise_{index}", draw, persistent=False)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score images as :meth:`advrad.AdvRAD.measure` does, in float32.

        Args:
            images: (b, 3, h, w) float in [0, 1].

        Returns:
            ``pred_score`` (b,) and ``anomaly_map`` (b, 1, size, size), neither normalised nor clamped. Differentiable.

        Raises:
            NotCalibratedError: the detector was not trained yet.
        """
        if self.detector is None:
            raise NotCalibratedError("AdvRad: has no score yet; train it first, or load a checkpoint or a model folder")
        noise = StoredNoise(draw for _, draw in self.named_buffers(recurse=False))
        scores, maps, _ = self.detector.examine(images, noise)
        return InferenceBatch(pred_score=scores, anomaly_map=maps)


class SquarePreProcessor(PreProcessor):  # type: ignore[misc]
    """Resizes to a square with antialiasing, in exported graphs as in training, and normalises nothing.

    Anomalib's own turns antialiasing off on export, which would give the exported detector other scores.
    """

    def forward(self, batch: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 3, size, size), both in [0, 1]."""
        return resize(batch, self.transform.size[0])
