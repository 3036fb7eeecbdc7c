"""The exported part of the anomalib model: from images to scores, as a graph without random operations."""

from __future__ import annotations

import torch
from anomalib.data import InferenceBatch
from anomalib.pre_processing import PreProcessor
from torch import Tensor, nn

from advrad.data.transforms import resize
from advrad.denoisers.sampling import StoredNoise
from advrad.detectors.advrad import AdvRAD
from advrad.errors import NotCalibratedError


class DeployedDetector(nn.Module):
    """A detector as a graph without random operations: its noise is stored.

    The noise follows from the detector's noise seed, so it is stored in exported graphs but not in checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detector: AdvRAD | None = None

    def install(self, detector: AdvRAD) -> None:
        """Set the detector and draw its noise.

        Args:
            detector: The detector.
        """
        self.detector = detector
        for name in [name for name, _ in self.named_buffers(recurse=False)]:
            delattr(self, name)
        score = detector.detector_config.score
        generator = torch.Generator().manual_seed(detector.detector_config.noise_seed)
        # In the order in which the score draws it: view by view, draw by draw, step by step.
        sides = [view.view_px for view in score.views for _ in range(score.draws * score.steps)]
        for index, side in enumerate(sides):
            draw = torch.randn(1, 3, side, side, generator=generator).to(detector.device)
            self.register_buffer(f"noise_{index}", draw, persistent=False)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score images in float32, as the detector does outside anomalib.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            ``pred_score`` (b,) and ``anomaly_map`` (b, 1, size, size), neither normalised nor clamped. Differentiable.

        Raises:
            NotCalibratedError: The detector is not trained yet.
        """
        if self.detector is None:
            raise NotCalibratedError("AdvRad has no detector yet; train it, or load a checkpoint or a model folder")
        noise = StoredNoise(draw for _, draw in self.named_buffers(recurse=False))
        scores, maps, _ = self.detector.infer(images, noise)
        return InferenceBatch(pred_score=scores, anomaly_map=maps)


class SquarePreProcessor(PreProcessor):  # type: ignore[misc]
    """Resizes images to a square with antialiasing, in training and in exported graphs; it normalises nothing.

    anomalib's own pre-processor turns antialiasing off on export, which would change the scores.
    """

    def forward(self, batch: Tensor) -> Tensor:
        """Resize images (b, 3, h, w) in [0, 1] to (b, 3, size, size)."""
        return resize(batch, self.transform.size[0])
