"""A small residual U-Net that trains on two CPU cores.

It is cheap because the first layer folds patches into channels (space-to-depth), most of the work is done by plain 3x3
convolutions at low resolution, there is no attention, and each block has a single normalisation, by the root mean
square of each pixel, which reads memory twice where GroupNorm reads it many times.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Residual block ``x + conv(silu(film(conv(silu(rms(x))))))``; the identity at initialisation.

    Args:
        channels: Width of the input and the output.
        condition_channels: Width of the condition, which scales and shifts the hidden features.
    """

    def __init__(self, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(condition_channels, 2 * channels)
        for layer in (self.second, self.film):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # both layers have a bias

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Run the block.

        Args:
            x: Features, (b, channels, h, w).
            condition: Condition, (b, condition_channels).

        Returns:
            Features, (b, channels, h, w).
        """
        normalised = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        hidden = self.first(F.silu(normalised))
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, hidden, 1 + scale)
        residual: Tensor = self.second(F.silu(hidden))
        return x + residual


class LeanUNet(nn.Module):
    """U-Net on patches of an image, conditioned on numbers per image and on the position of every patch.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, which has the resolution of the input.
        channels: Width of each level; a level has half the resolution of the one before.
        blocks: Residual blocks per level, once on the way down and once on the way up.
        stem_px: Side of the square patches that the first layer folds into channels, pixels.
        scalars: Number of conditioning numbers per image.
        condition_channels: Width of the condition inside the network.

    Example:
        >>> import torch
        >>> network = LeanUNet(3, 3, channels=(8, 16), blocks=(1, 1), stem_px=2, scalars=1)
        >>> network(torch.zeros(2, 3, 16, 16), torch.zeros(2, 1), torch.zeros(2, 2, 8, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        stem_px: int,
        scalars: int,
        condition_channels: int = 128,
    ) -> None:
        super().__init__()
        self.stem_px = stem_px
        self.stem = nn.Conv2d(in_channels * stem_px**2 + 2, channels[0], 3, padding=1)
        sizes = list(zip(channels, blocks, strict=True))
        self.encoder = nn.ModuleList(self._level(*size, condition_channels) for size in sizes)
        self.decoder = nn.ModuleList(self._level(*size, condition_channels) for size in sizes)
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList(nn.Conv2d(upper, lower, 2, stride=2) for upper, lower in pairs)
        self.up = nn.ModuleList(nn.Conv2d(lower, upper, 1) for upper, lower in pairs)
        self.head = nn.Conv2d(channels[0], out_channels * stem_px**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        frequencies = torch.exp(torch.linspace(0.0, math.log(20.0), 16))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor
        self.condition = nn.Sequential(
            nn.Linear(2 * scalars * len(frequencies), condition_channels),
            nn.SiLU(),
            nn.Linear(condition_channels, condition_channels),
            nn.SiLU(),
        )

    @staticmethod
    def _level(channels: int, blocks: int, condition_channels: int) -> nn.ModuleList:
        return nn.ModuleList(ResidualBlock(channels, condition_channels) for _ in range(blocks))

    @property
    def multiple_px(self) -> int:
        """Height and width of the input must be multiples of this, pixels."""
        return int(self.stem_px * 2 ** len(self.down))

    def forward(self, x: Tensor, scalars: Tensor, position: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: Input, (b, in_channels, h, w), of about unit variance.
            scalars: Conditioning numbers, (b, scalars), of magnitude about 1.
            position: Row and column of each patch in the whole image, (b, 2, h / stem_px, w / stem_px), in [-1, 1].

        Returns:
            Output, (b, out_channels, h, w); zero at initialisation.
        """
        phases = (scalars[:, :, None] * self.frequencies).flatten(1)
        condition = self.condition(torch.cat([phases.sin(), phases.cos()], dim=1))
        x = self.stem(torch.cat([F.pixel_unshuffle(x, self.stem_px), position], dim=1))
        skips = []
        for index, level in enumerate(self.encoder):
            if index:
                x = self.down[index - 1](x)
            x = _through(level, x, condition)
            skips.append(x)
        for index in reversed(range(len(self.decoder))):
            if index < len(self.up):
                x = skips[index] + F.interpolate(self.up[index](x), scale_factor=2.0, mode="nearest")
            x = _through(self.decoder[index], x, condition)
        return F.pixel_shuffle(self.head(F.silu(x)), self.stem_px)


def _through(level: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    """Run the blocks of one level."""
    for block in level.children():
        x = block(x, condition)
    return x
