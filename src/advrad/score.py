"""From picture and reconstruction to an error map, and from the map to one number.

The paper's score is one choice among those named here: normalisation ``mean``, pooling 0 (the maximum), one look.
The map is never clamped or squashed, so that gradients reach an attacker undamaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from advrad.config import Config
from advrad.denoiser import SCALES, Denoiser, scale_errors
from advrad.pictures import resize
from advrad.reconstruct import reconstruct

Normalisation = Literal["none", "mean", "spread"]


class Look(Config):
    """One reconstruction of the picture.

    Attributes:
        view_px: the picture is shrunk to this size first.
        sigma: noise level, [0, 1] pixel units.
    """

    view_px: int = Field(gt=0)
    sigma: float = Field(gt=0)


class ScoreConfig(Config):
    """How a picture is scored.

    Attributes:
        looks: their scores are averaged, each in units of its spread over normal pictures.
        normalisation: ``none``; ``mean``: ``|E - mu|``, as in the paper; ``spread``: ``(E - mu) / s`` per position.
        filter_px: odd width of the mean filter over each error map, in pixels of the view; 1 leaves it as it is.
        pooling: share of the map's largest values that is averaged; 0 is the maximum alone.
        draws: independent noise draws whose error maps are averaged.
        steps: denoiser calls per reconstruction; 1 is one-shot.
    """

    looks: tuple[Look, ...] = Field(min_length=1)
    normalisation: Normalisation = "none"
    filter_px: int = Field(3, gt=0)
    pooling: float = Field(0.0, ge=0, le=1)
    draws: int = Field(1, gt=0)
    steps: int = Field(1, gt=0)

    @field_validator("filter_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that the window has a centre")
        return value


def paper_score(size_px: int, sigma: float = 0.26, filter_px: int = 3) -> ScoreConfig:
    """The score of the AdvRAD paper: maximum of ``|E - mu|`` at one noise level (0.26 is k = 150)."""
    look = Look(view_px=size_px, sigma=sigma)
    return ScoreConfig(looks=(look,), normalisation="mean", filter_px=filter_px)


def describe(config: ScoreConfig) -> str:
    """How pictures are scored, in one line of words."""
    views = "+".join(str(view) for view in sorted({look.view_px for look in config.looks}))
    sigmas = ", ".join(f"{sigma:g}" for sigma in sorted({look.sigma for look in config.looks}))
    pooling = f"mean of the top {config.pooling:.1%}" if config.pooling else "maximum"
    style = f"normalisation {config.normalisation}, filter {config.filter_px} px, {pooling}"
    return f"{style}; {views} px; noise {sigmas}"


def mean_filter(maps: Tensor, filter_px: int) -> Tensor:
    """Mean over a square window; at the border over the part of the window inside the map.

    Args:
        maps: (b, 1, h, w).
        filter_px: odd width; 1 leaves the map as it is.
    """
    if filter_px == 1:
        return maps
    return F.avg_pool2d(maps, filter_px, stride=1, padding=filter_px // 2, count_include_pad=False)


def error_map(images: Tensor, recon: Tensor, filter_px: int = 3) -> Tensor:
    """Per-pixel multiscale reconstruction error.

    Args:
        images: (b, 3, h, w) float in [0, 1]; h and w are multiples of 8.
        recon: same shape and range.
        filter_px: width of the mean filter; 1 disables it.

    Returns:
        (b, 1, h, w), >= 0; larger is more anomalous. Row i uses row i only. Differentiable in both.

    Source: AdvRAD, multiscale error map (scales 1, 1/2, 1/4, 1/8, averaged).
    """
    errors = scale_errors(images, recon)
    total = errors[0]
    for error in errors[1:]:
        total = total + F.interpolate(error, size=images.shape[2:], mode="bilinear")
    return mean_filter(total / SCALES, filter_px)


def pooled_count(pixels: int, share: float) -> int:
    """How many of ``pixels`` values a pooling share averages; at least 1."""
    return max(1, round(share * pixels))


def pool(maps: Tensor, share: float) -> Tensor:
    """Mean of the largest values of each map.

    Args:
        maps: (b, 1, h, w).
        share: of the pixels, 0 to 1; 0 is the maximum alone, 1 the mean.

    Returns:
        (b,).
    """
    flat = maps.flatten(1)
    count = pooled_count(flat.shape[1], share)
    return flat.amax(1) if count == 1 else flat.topk(count, dim=1).values.mean(1)


@dataclass(frozen=True)
class LookStatistics:
    """What normal pictures look like to one look.

    Attributes:
        mean: (1, 1, h, w) mean error map.
        spread: (1, 1, h, w) standard deviation of the error map per position, > 0.
        location: mean of the pooled score.
        scale: standard deviation of the pooled score, > 0.
    """

    mean: Tensor
    spread: Tensor
    location: float = 0.0
    scale: float = 1.0


#: Share of the average spread added to each position's: a spread from few pictures can be near 0 by luck.
SPREAD_FLOOR = 0.1


def spread_floor(deviation: Tensor) -> Tensor:
    """What is added to every position's deviation, (n, 1, h, w) -> (n, 1, 1, 1), > 0."""
    return SPREAD_FLOOR * deviation.mean((1, 2, 3), keepdim=True) + torch.finfo(deviation.dtype).tiny


def map_statistics(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation per position.

    Args:
        maps: (n, 1, h, w) error maps of normal pictures, n >= 2.

    Returns:
        Two tensors (1, 1, h, w).
    """
    mean = maps.mean(0, keepdim=True)
    deviation = maps.std(0, keepdim=True)
    return mean, deviation + spread_floor(deviation)


def normalise(maps: Tensor, mean: Tensor, spread: Tensor, how: Normalisation) -> Tensor:
    """Relate error maps to those of normal pictures; see :class:`ScoreConfig`.

    Args:
        maps: (b, 1, h, w).
        mean: broadcastable to ``maps``.
        spread: broadcastable to ``maps``, > 0.
        how: the named normalisation.
    """
    if how == "none":
        return maps
    if how == "mean":
        return (maps - mean).abs()
    return (maps - mean) / spread


def look_maps(
    denoiser: Denoiser, images: Tensor, look: Look, config: ScoreConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Error maps of one look before normalisation, averaged over the draws.

    Args:
        denoiser: any denoiser.
        images: (b, 3, h, w) float in [0, 1].
        look: view and noise level.
        config: filter, draws and steps.
        generator: source of all noise; rows share each draw.

    Returns:
        Error maps (b, 1, view_px, view_px) and the mean reconstruction (b, 3, view_px, view_px). Differentiable.
    """
    view = resize(images, look.view_px)
    recons = [reconstruct(denoiser, view, look.sigma, generator, config.steps) for _ in range(config.draws)]
    maps = torch.stack([error_map(view, recon, config.filter_px) for recon in recons]).mean(0)
    return maps, torch.stack(recons).mean(0)
