"""What AdvRAD returns: tensors for a batch, and predictions for single images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advrad.data.framing import Framing
from advrad.detectors.verdicts import HalfReport, Verdict

Floats = npt.NDArray[np.float32]


class AdvRADOutput(NamedTuple):
    """Output of :class:`advrad.AdvRAD` for b images.

    Attributes:
        scores: Anomaly scores, (b,); larger is more anomalous.
        anomaly_maps: Anomaly maps, (b, 1, size, size), the smoothed mean of the standardised error maps.
        reconstructions: Reconstructions, (b, 3, size, size), the mean over views, not clamped.

    Example:
        >>> import torch
        >>> output = AdvRADOutput(torch.zeros(2), torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8))
        >>> scores, maps, reconstructions = output
        >>> scores is output.scores
        True
    """

    scores: Tensor
    anomaly_maps: Tensor
    reconstructions: Tensor


@dataclass(frozen=True, slots=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        score: Anomaly score; larger is more anomalous.
        threshold: Calibrated threshold.
        defective: Verdict: score > threshold, or that of a guarded detector.
        anomaly_map: Anomaly map, (size, size), smoothed to show an anomaly as a whole.
        reconstruction: The image as the denoiser would expect it without anomalies, (size, size, 3), about [0, 1]; None
            for a detector that makes none.
        path: File of the image; None for an image that was given in memory.
        verdict_words: Verdict of a guarded detector in words; None for other detectors.
        halves: What each half of a guarded detector says, the memory first; empty for other detectors.
        reason: Why a half of a guarded detector failed; None if none did.
        half_maps: Map of each half, (size, size), 0 where it starts to glow and 1 where normal images rarely are; empty
            for other detectors.

    Example:
        >>> prediction = Prediction(0.8, 0.5, True, np.zeros((8, 8), np.float32), np.zeros((8, 8, 3), np.float32))
        >>> "defective" if prediction.defective else "good"
        'defective'
    """

    score: float
    threshold: float
    defective: bool
    anomaly_map: Floats
    reconstruction: Floats | None = None
    path: Path | None = None
    verdict_words: Verdict | None = None
    halves: tuple[HalfReport, ...] = ()
    reason: str | None = None
    half_maps: tuple[Floats, ...] = ()

    @property
    def verdict(self) -> str:
        """The verdict: ``good`` or ``defective``, or the words of a guarded detector."""
        if self.verdict_words is not None:
            return str(self.verdict_words)
        return "defective" if self.defective else "good"

    def without_padding(self, framing: Framing, height_px: int, width_px: int) -> Prediction:
        """The prediction with the parts of map and reconstruction that show the image.

        Args:
            framing: How the image became the working image.
            height_px: Height of the image.
            width_px: Width of the image.
        """
        if not framing.pad:
            return self
        window, recon = framing.window(height_px, width_px), self.reconstruction
        return replace(
            self,
            anomaly_map=self.anomaly_map[window],
            reconstruction=None if recon is None else recon[window],
            half_maps=tuple(part[window] for part in self.half_maps),
        )
