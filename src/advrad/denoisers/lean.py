"""The default denoiser: a small U-Net with the preconditioning of EDM.

It differs from a plain EDM denoiser in three ways:

- The network receives the position and the magnification of what it sees, so one network denoises whole images and
  crops of them.
- It is trained to remove synthetic defects as well as noise, so the reconstruction is a normal image even where the
  noise is too weak to cover a defect.
- The preconditioning uses a mean and a variance for every pixel, estimated from the training images before the first
  step, in place of one ``sigma_data`` for all pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from advrad.data.transforms import resize
from advrad.denoisers.base import SCALES, Denoiser
from advrad.denoisers.unet import LeanUNet
from advrad.utils.config import Config

#: Standard deviation of images in [-1, 1], assumed where no statistics were fitted; EDM's ``sigma_data``.
SIGMA_DATA = 0.5
#: Smallest standard deviation of a pixel, in [-1, 1] units: about the smallest visible difference.
_MIN_STD = 0.04
#: Image size at which the magnification is 0 octaves.
_REFERENCE_PX = 128

PositiveInt = Annotated[int, Field(gt=0)]


class LeanConfig(Config):
    """Shape of the lean denoiser and of its training noise.

    Attributes:
        kind: Name of this kind of denoiser in files.
        channels: Width of each level of the U-Net.
        blocks: Residual blocks per level, once on the way down and once on the way up.
        stem_px: Side of the square patches that the first layer folds into channels, pixels.
        sigma_min: Smallest noise level in training, [0, 1] pixel units.
        sigma_max: Largest noise level in training, [0, 1] pixel units.
        statistics_px: Side of the maps of the mean and the variance, pixels; ``usual_px`` in files.

    Example:
        >>> LeanConfig(stem_px=4).stem_px
        4
    """

    kind: Literal["lean"] = "lean"
    channels: tuple[PositiveInt, ...] = (24, 48, 96, 128)
    blocks: tuple[PositiveInt, ...] = (1, 1, 2, 2)
    stem_px: PositiveInt = 2
    sigma_min: float = Field(default=0.04, gt=0)
    sigma_max: float = Field(default=0.65, gt=0)
    statistics_px: PositiveInt = Field(default=128, alias="usual_px")


@dataclass(frozen=True, slots=True)
class Preconditioning:
    """Coefficients of ``D(x, sigma) = mean + c_skip (x - mean) + c_out F(c_in (x - mean), c_noise)``.

    ``F`` is the network. With mean 0 and variance ``sigma_data**2`` for all pixels the first three are those of EDM;
    ``c_noise`` is twice EDM's. ``x`` and ``sigma`` are in the network's units: images in [-1, 1].

    Attributes:
        c_skip: Weight of the noisy image, (b, 3, h, w).
        c_out: Scale of the network's output, (b, 3, h, w).
        c_in: Scale that gives the network's input unit variance, (b, 3, h, w).
        c_noise: Noise level as the network receives it, (b,).

    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor

    @classmethod
    def of(cls, sigma: Tensor, variance: Tensor) -> Preconditioning:
        """Compute the coefficients.

        Args:
            sigma: Noise levels, (b,), above 0.
            variance: Variance of the clean pixels, (b, 3, h, w).
        """
        column = sigma[:, None, None, None]
        total = column.square() + variance
        return cls(
            c_skip=variance / total,
            c_out=column * (variance / total).sqrt(),
            c_in=total.rsqrt(),
            c_noise=sigma.log() / 2,
        )


def positions(window: Tensor, height: int, width: int) -> Tensor:
    """Give the row and the column of every cell of a window, in the coordinates of the whole image.

    Args:
        window: Top, left, bottom and right of the window in the whole image, (b, 4), in [-1, 1].
        height: Number of rows of cells.
        width: Number of columns of cells.

    Returns:
        Rows and columns of the cells' centres, (b, 2, height, width), in [-1, 1].
    """
    rows = (torch.arange(height, device=window.device, dtype=window.dtype) + 0.5) / height
    columns = (torch.arange(width, device=window.device, dtype=window.dtype) + 0.5) / width
    top, left, bottom, right = window.unbind(1)
    y = top[:, None] + (bottom - top)[:, None] * rows
    x = left[:, None] + (right - left)[:, None] * columns
    return torch.stack([y[:, :, None].expand(-1, height, width), x[:, None, :].expand(-1, height, width)], dim=1)


class LeanDenoiser(Denoiser):
    """The default denoiser.

    Args:
        config: Shape of the network and of its training noise; None for the defaults.

    Attributes:
        config: The configuration.
        mean: Mean normal image, (1, 3, statistics_px, statistics_px), in [-1, 1].
        variance: Variance of every pixel of normal images, same shape.

    Example:
        >>> import torch
        >>> denoiser = LeanDenoiser(LeanConfig(channels=(8, 16), blocks=(1, 1)))
        >>> denoiser(torch.rand(2, 3, 32, 32), torch.full((2,), 0.1)).shape
        torch.Size([2, 3, 32, 32])

    Source: preconditioning and loss weight of Karras et al. 2022, "Elucidating the Design Space of
    Diffusion-Based Generative Models", with a mean and a variance for every pixel.
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
        shape = (1, 3, self.config.statistics_px, self.config.statistics_px)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.full(shape, SIGMA_DATA**2))

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Estimate the mean and the variance of every pixel; see :meth:`Denoiser.fit_statistics`."""
        images = [2 * batch.to(self.mean.device) - 1 for batch in batches]
        side, count = images[0].shape[-1], sum(map(len, images))
        mean = torch.cat([resize(batch, self.config.statistics_px) for batch in images]).mean(0, keepdim=True)
        # Around the mean as it is looked up later: detail that is lost in a coarse mean counts as variance.
        upsampled = resize(mean, side)
        squares = torch.stack([(batch - upsampled).square().sum(0) for batch in images])
        variance = squares.sum(0, keepdim=True) / count
        self.mean.copy_(mean)
        self.variance.copy_(resize(variance, self.config.statistics_px).clamp_min(_MIN_STD**2))

    def _statistics_of(self, window: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the pixels of a window, (b, 3, height, width) each."""
        grid = positions(window, height, width).flip(1).permute(0, 2, 3, 1)
        both = torch.cat([self.mean, self.variance], 1).expand(window.shape[0], -1, -1, -1)
        sampled = F.grid_sample(both, grid.to(both), mode="bilinear", padding_mode="border", align_corners=False)
        mean, variance = sampled.chunk(2, dim=1)
        return mean, variance

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        """Remove the noise; see :meth:`Denoiser.denoise`."""
        batch, _, height, width = z.shape
        if window is None:
            window = z.new_tensor([-1.0, -1.0, 1.0, 1.0]).expand(batch, 4)
        # The network works in [-1, 1], where images and noise levels are twice as large.
        x, sigma = 2 * z - 1, 2 * sigma
        mean, variance = self._statistics_of(window, height, width)
        pre = Preconditioning.of(sigma, variance)
        # The image appears twice in the input: scaled as in EDM, and relative to the normal image.
        plain = x * (sigma.square() + SIGMA_DATA**2).rsqrt()[:, None, None, None]
        inputs = torch.cat([plain, pre.c_in * (x - mean)], dim=1).contiguous(memory_format=torch.channels_last)
        whole_px = height * 2 / (window[:, 2] - window[:, 0])
        scalars = torch.stack([pre.c_noise, torch.log2(whole_px / _REFERENCE_PX)], dim=1)
        stem_px = self.network.stem_px
        place = positions(window, height // stem_px, width // stem_px)
        outputs: Tensor = self.network(inputs, scalars.to(z.dtype), place)
        recon = mean + pre.c_skip * (x - mean) + pre.c_out * outputs.to(z.dtype)
        return (recon + 1) / 2

    def optimiser_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Give Muon the kernels between the first and the last layer, and AdamW the rest.

        Muon moves every singular direction equally far, which does not suit the first and the last layer.
        """
        kernels: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.network.named_parameters():
            inner = parameter.ndim == 4 and not name.startswith(("stem.", "head."))
            (kernels if inner else others).append(parameter)
        return kernels, others

    def training_loss(
        self, images: Tensor, corrupted: Tensor, level: Tensor, noise: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """Weighted squared error between the reconstruction of ``corrupted`` and ``images``.

        The noise levels are log-uniform between ``sigma_min`` and ``sigma_max``. See :meth:`Denoiser.training_loss`.
        """
        low, high = math.log(self.config.sigma_min), math.log(self.config.sigma_max)
        sigma = torch.exp(low + level * (high - low))
        recon = self.denoise(corrupted + sigma[:, None, None, None] * noise, sigma, window)
        # EDM's loss weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, in [-1, 1] units.
        weight = 1 / (2 * sigma).square() + 1 / SIGMA_DATA**2
        return weight * (2 * (recon - images)).square().mean((1, 2, 3))
