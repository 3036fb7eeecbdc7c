"""``lean``, the default denoiser: EDM preconditioning around the lean U-Net.

Three things go beyond a plain denoiser. It knows where in the image, and at which magnification, it looks, so that
one network serves the whole image and crops of it. It learns to undo synthetic defects, so that what it gives back
is a normal image even where the noise is too weak to drown a defect. And it knows from the start what every place
usually looks like and how much it varies, which the first minute of training would else be spent on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from advrad.data.transforms import resize
from advrad.denoisers.base import SCALES, Denoiser
from advrad.denoisers.unet import LeanUNet
from advrad.utils.config import Config

_DATA_STD = 0.5  # of images in [-1, 1], where nothing is known of them; EDM's sigma_data
_LEAST_STD = 0.04  # of a place that never changes: about what is visible
_REFERENCE_PX = 128  # magnification is counted in octaves from this image size

PositiveInt = Annotated[int, Field(gt=0)]


class LeanConfig(Config):
    """Shape of the lean denoiser and of its training noise.

    Attributes:
        kind: tells the denoisers apart in files.
        channels: width of each level of the U-Net.
        blocks: residual blocks per level, down and again up.
        stem_px: side of the patches folded into channels.
        sigma_min: smallest noise level seen in training, [0, 1] pixel units.
        sigma_max: largest noise level seen in training.
    """

    kind: Literal["lean"] = "lean"
    channels: tuple[PositiveInt, ...] = (24, 48, 96, 128)
    blocks: tuple[PositiveInt, ...] = (1, 1, 2, 2)
    stem_px: PositiveInt = 2
    sigma_min: float = Field(0.04, gt=0)
    sigma_max: float = Field(0.65, gt=0)
    usual_px: PositiveInt = 128


def positions(window: Tensor, height: int, width: int) -> Tensor:
    """Row and column of every cell centre in the whole image.

    Args:
        window: (b, 4) top, left, bottom, right in [-1, 1].
        height: rows of cells.
        width: columns of cells.

    Returns:
        (b, 2, height, width) in [-1, 1].
    """
    rows = (torch.arange(height, device=window.device, dtype=window.dtype) + 0.5) / height
    columns = (torch.arange(width, device=window.device, dtype=window.dtype) + 0.5) / width
    top, left, bottom, right = window.unbind(1)
    y = top[:, None] + (bottom - top)[:, None] * rows
    x = left[:, None] + (right - left)[:, None] * columns
    return torch.stack([y[:, :, None].expand(-1, height, width), x[:, None, :].expand(-1, height, width)], dim=1)


class LeanDenoiser(Denoiser):
    """The default denoiser.

    Source: preconditioning and loss weight of Karras et al. 2022, "Elucidating the Design Space of
    Diffusion-Based Generative Models"; here with a mean and a variance for every place instead of one for all.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, config: LeanConfig | None = None) -> None:
        super().__init__()
        self.config = config or LeanConfig()
        self.network = LeanUNet(
            in_channels=6,
            out_channels=3,
            channels=self.config.channels,
            blocks=self.config.blocks,
            stem_px=self.config.stem_px,
            scalars=2,
        )
        self.multiple_px = math.lcm(self.network.multiple_px, 2 ** (SCALES - 1))
        shape = (1, 3, self.config.usual_px, self.config.usual_px)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.full(shape, _DATA_STD**2))

    @torch.no_grad()
    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Take mean and variance of every place from normal images; see :class:`Denoiser`."""
        images = [2 * images.to(self.mean.device) - 1 for images in batches]
        side, count = images[0].shape[-1], sum(map(len, images))
        mean = torch.cat([resize(part, self.config.usual_px) for part in images]).mean(0, keepdim=True)
        # About the mean as it will be looked up: what its coarseness leaves open is variance too.
        usual = resize(mean, side)
        variance = torch.stack([(part - usual).square().sum(0) for part in images]).sum(0, keepdim=True) / count
        self.mean.copy_(mean)
        self.variance.copy_(resize(variance, self.config.usual_px).clamp_min(_LEAST_STD**2))

    def _usual(self, window: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the places in a window, (b, 3, height, width) each."""
        grid = positions(window, height, width).flip(1).permute(0, 2, 3, 1)
        both = torch.cat([self.mean, self.variance], 1).expand(window.shape[0], -1, -1, -1)
        sampled = F.grid_sample(both, grid.to(both), mode="bilinear", padding_mode="border", align_corners=False)
        mean, variance = sampled.chunk(2, dim=1)
        return mean, variance

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        """See :class:`Denoiser`."""
        batch, _, height, width = z.shape
        if window is None:
            window = z.new_tensor([-1.0, -1.0, 1.0, 1.0]).expand(batch, 4)
        # The network's world is [-1, 1]: distances there are twice those in [0, 1].
        level = (2 * sigma)[:, None, None, None]
        mean, variance = self._usual(window, height, width)
        total = level.square() + variance
        skip = variance / total
        prior_std = level * (variance / total).sqrt()
        whole_px = height * 2 / (window[:, 2] - window[:, 0])
        scalars = torch.stack([torch.log(2 * sigma) / 2, torch.log2(whole_px / _REFERENCE_PX)], dim=1)
        signed = 2 * z - 1
        unusual = (signed - mean) / total.sqrt()
        plain = signed / (level.square() + _DATA_STD**2).sqrt()
        inputs = torch.cat([plain, unusual], dim=1).contiguous(memory_format=torch.channels_last)
        stem_px = self.network.stem_px
        place = positions(window, height // stem_px, width // stem_px)
        outputs: Tensor = self.network(inputs, scalars.to(z.dtype), place).to(z.dtype)
        recon: Tensor = (mean + skip * (signed - mean) + prior_std * outputs + 1) / 2
        return recon

    def optimiser_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Kernels between the stem and the head for Muon: its equal steps in all directions do not suit those two."""
        kernels: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.network.named_parameters():
            inner = parameter.ndim == 4 and not name.startswith(("stem.", "head."))
            (kernels if inner else others).append(parameter)
        return kernels, others

    def training_loss(
        self, images: Tensor, corrupted: Tensor, level: Tensor, noise: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """Weighted denoising error towards ``images``; see :class:`Denoiser`.

        Noise levels are log-uniform between the configured bounds.
        """
        low, high = math.log(self.config.sigma_min), math.log(self.config.sigma_max)
        sigma = torch.exp(low + level * (high - low))
        recon = self.denoise(corrupted + sigma[:, None, None, None] * noise, sigma, window)
        weight = 1 / (2 * sigma).square() + 1 / _DATA_STD**2
        return weight * (2 * (recon - images)).square().mean((1, 2, 3))
