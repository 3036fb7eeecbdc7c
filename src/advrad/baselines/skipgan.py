"""Skip-GANomaly: a U-Net trained to reconstruct normal images against a discriminator.

Source: Akcay, Atapour-Abarghouei, Breckon 2019, "Skip-GANomaly: Skip connected and adversarially trained
encoder-decoder anomaly detection" (IJCNN), with its loss weights 1, 40 and 1. Differences: see
:mod:`advrad.baselines.gan`.
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
    """An encoder and decoder with skip connections.

    Args:
        channels: Width of each level.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(encoder_levels(channels))
        self.decoder = Decoder(channels)

    def forward(self, signed: Tensor) -> Tensor:
        """Reconstruct images (b, 3, h, w) in [-1, 1]; same shape."""
        features = [signed]
        for level in self.encoder:
            features.append(level(features[-1]))
        recon: Tensor = self.decoder(features[1:])
        return recon


def fit_skipgan(context: FitContext, options: SkipGanOptions) -> ReconstructionGan:
    """Train Skip-GANomaly on normal images."""
    return fit_gan(context, options, lambda: UNet(options.channels), "skipgan")
