"""The lean U-Net: a small residual network whose arithmetic fits two CPU cores.

What makes it lean: images enter through a patchified stem (space-to-depth), most of the arithmetic happens
at low resolution in plain 3x3 convolutions, there is no attention, and the only normalisation is one per-pixel
root mean square per block, which costs two passes over memory instead of GroupNorm's many.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """``x + conv(silu(film(conv(silu(rms(x))))))``, starting as the identity.

    Args:
        channels: width of input and output.
        condition_channels: width of the condition that scales and shifts the hidden features.
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
        """(b, channels, h, w) and (b, condition_channels) -> (b, channels, h, w)."""
        normalised = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        hidden = self.first(F.silu(normalised))
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, hidden, 1 + scale)
        out: Tensor = x + self.second(F.silu(hidden))
        return out


class LeanUNet(nn.Module):
    """U-Net over patchified images, conditioned on scalars and on the position of every pixel.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, at the image's resolution.
        channels: width of each level; each level has half the resolution of the one before.
        blocks: residual blocks per level, on the way down and again on the way up.
        stem_px: side of the patches that the stem folds into channels.
        scalars: number of conditioning scalars per image.
        condition_channels: width of the condition inside.
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
        """Height and width of an image must be multiples of this."""
        return int(self.stem_px * 2 ** len(self.down))

    def forward(self, x: Tensor, scalars: Tensor, position: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: (b, in_channels, h, w), of about unit variance.
            scalars: (b, scalars) conditioning values of magnitude about 1.
            position: (b, 2, h / stem_px, w / stem_px), row and column in the whole image, -1 to 1.

        Returns:
            (b, out_channels, h, w); zero at initialisation.
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
