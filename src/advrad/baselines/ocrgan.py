"""OCR-GAN: two branches reconstruct low and high frequencies of an image and weight each other's channels.

Source: Liang, Zhang, Zhao, Wu, Liu, Pan 2023, "Omni-frequency channel-selection representations for unsupervised
anomaly detection" (IEEE TIP). Frequency decoupling: section III-B; channel selection: section III-C; losses and score
as in Skip-GANomaly with the weights 1, 50 and 1. As in the released code, the discriminator also sees images with a
misplaced patch (CutPaste, Li et al. 2021).

Differences from the paper: those of :mod:`advrad.baselines.gan`, and the patches come from
:mod:`advrad.data.synthetic`.
"""

from __future__ import annotations

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from advrad.baselines.base import FitContext
from advrad.baselines.gan import Decoder, GanOptions, ReconstructionGan, encoder_levels, fit_gan
from advrad.data.transforms import resize


class OcrGanOptions(GanOptions):
    """Options of OCR-GAN; see :class:`GanOptions`."""

    channels: tuple[PositiveInt, ...] = Field((24, 48, 64, 64), min_length=1, max_length=4)
    negatives: bool = True


def decouple(signed: Tensor) -> tuple[Tensor, Tensor]:
    """Split square images into low and high frequencies, as one level of a Laplacian pyramid.

    Args:
        signed: Images, (b, c, h, h), h even.

    Returns:
        The images after halving and doubling the resolution with smoothing, and the rest. Both have the shape of the
        images and add up to them.
    """
    side = signed.shape[-1]
    coarse = resize(resize(signed, side // 2), side)
    return coarse, signed - coarse


class ChannelSelection(nn.Module):
    """Weights two branches against each other, channel by channel.

    Args:
        channels: Number of channels of the features.
        reduction: Factor by which the bottleneck is narrower than the features.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        inner = max(8, channels // reduction)
        self.choose = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply two tensors (b, channels, h, w) by weights that add up to 1 in every channel."""
        share = self.choose((low + high).mean((2, 3))).sigmoid()[:, :, None, None]
        return share * low, (1 - share) * high


class TwoBranches(nn.Module):
    """One U-Net for low and one for high frequencies; the output is the sum of their reconstructions.

    Args:
        channels: Width of each level.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.low, self.high = (nn.ModuleList(encoder_levels(channels)) for _ in range(2))
        self.selections = nn.ModuleList(map(ChannelSelection, channels))
        self.low_decoder, self.high_decoder = Decoder(channels), Decoder(channels)

    def forward(self, signed: Tensor) -> Tensor:
        """Reconstruct images (b, 3, h, h) in [-1, 1]; same shape."""
        low, high = decouple(signed)
        lows, highs = [], []
        for below, above, select in zip(self.low, self.high, self.selections, strict=True):
            low, high = select(below(low), above(high))
            lows.append(low)
            highs.append(high)
        recon: Tensor = self.low_decoder(lows) + self.high_decoder(highs)
        return recon


def fit_ocrgan(context: FitContext, options: OcrGanOptions) -> ReconstructionGan:
    """Train OCR-GAN on normal images."""
    return fit_gan(context, options, lambda: TwoBranches(options.channels), "ocrgan")
