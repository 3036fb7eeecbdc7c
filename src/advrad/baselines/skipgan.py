"""Skip-GANomaly: a U-Net that learns to reconstruct normal images against a discriminator.

Source: Akcay, Atapour-Abarghouei, Breckon 2019, "Skip-GANomaly: Skip connected and adversarially trained
encoder-decoder anomaly detection" (IJCNN). The paper weighs the losses 1, 40 and 1.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import FitContext
from advrad.baselines.gan import Decoder, GanOptions, ReconstructionGan, encoder_levels, fit_gan


class SkipGanOptions(GanOptions):
    """Options of Skip-GANomaly; see :class:`GanOptions`."""

    context_weight: float = Field(40.0, ge=0)


class UNet(nn.Module):
    """Encoder and decoder with skip connections.

    Args:
        channels: width of each level.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(encoder_levels(channels))
        self.decoder = Decoder(channels)

    def forward(self, signed: Tensor) -> Tensor:
        """(b, 3, h, w) in [-1, 1] -> its reconstruction, same shape."""
        features = [signed]
        for level in self.encoder:
            features.append(level(features[-1]))
        recon: Tensor = self.decoder(features[1:])
        return recon


def fit_skipgan(lesson: FitContext, options: SkipGanOptions) -> ReconstructionGan:
    """Train on normal images."""
    return fit_gan(lesson, options, lambda: UNet(options.channels), "skipgan")
