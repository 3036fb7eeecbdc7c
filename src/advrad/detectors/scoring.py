"""From image and reconstruction to error maps, and from the maps to one number.

The paper's score is one choice among those named here: normalisation ``mean``, pooling 0 (the maximum), one look,
scales averaged, level absolute.
The map is never clamped or squashed, so that gradients reach an attacker undamaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from advrad.data.transforms import resize
from advrad.denoisers.base import SCALES, Denoiser
from advrad.denoisers.sampling import GradientPath, reconstruct
from advrad.utils.config import Config

Normalisation = Literal["none", "mean", "spread", "tolerant"]
#: Divisors are at least this: the errors of images of flat colour, perfectly foretold, may all be 0.
EPS = 1e-12

Scales = Literal["averaged", "apart"]
Level = Literal["absolute", "relative"]


class NoiseView(Config):
    """One reconstruction of the image.

    Attributes:
        view_px: the image is shrunk to this size first.
        sigma: noise level, [0, 1] pixel units.
    """

    view_px: int = Field(gt=0)
    sigma: float = Field(gt=0)


class ScoreConfig(Config):
    """How an image is scored.

    Attributes:
        looks: each gives one error map or several; the scores of all maps are averaged, each in units of its spread
            over normal images.
        scales: ``averaged``: a look's errors at the four scales are averaged into one map, as in the paper; ``apart``:
            each scale is a map of its own, so that unavoidable error at one does not drown what another sees.
        level: ``absolute``: error maps as they are; ``relative``: each divided by its own mean, see
            :func:`divide_by_image_mean`.
        normalisation: ``none``; ``mean``: ``|E - mu|``, as in the paper; ``spread``: ``(E - mu) / s`` per position;
            ``tolerant``: the same with a spread no smaller than what harmless changes cause, see :func:`spread_floor`.
        filter_px: odd width of the mean filter over each error map, in cells of that map; 1 leaves it as it is.
        pooling: share of the map's largest values that is averaged; 0 is the maximum alone.
        draws: independent noise draws whose error maps are averaged.
        steps: denoiser calls per reconstruction; 1 is one-shot.
        quantile: of the score over its own noise, of which a certificate speaks. It changes no plain score.
        map_filter_px: odd width of the smoothing of the score map, in pixels of the detector's size; 1 leaves it as it
            is. It changes where a defect is shown, never the score.
    """

    looks: tuple[NoiseView, ...] = Field(min_length=1)
    scales: Scales = "averaged"
    level: Level = "absolute"
    normalisation: Normalisation = "none"
    filter_px: int = Field(3, gt=0)
    pooling: float = Field(0.0, ge=0, le=1)
    draws: int = Field(1, gt=0)
    steps: int = Field(1, gt=0)
    quantile: float = Field(0.5, gt=0, lt=1)
    map_filter_px: int = Field(1, gt=0)

    @field_validator("filter_px", "map_filter_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that the window has a centre")
        return value

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Side of every error map, look by look, in cells."""
        levels = range(SCALES if self.scales == "apart" else 1)
        return tuple(look.view_px // 2**level for look in self.looks for level in levels)


def paper_score(size_px: int, sigma: float = 0.26, filter_px: int = 3) -> ScoreConfig:
    """The score of the AdvRAD paper: maximum of ``|E - mu|`` at one noise level (0.26 is k = 150)."""
    look = NoiseView(view_px=size_px, sigma=sigma)
    return ScoreConfig(looks=(look,), normalisation="mean", filter_px=filter_px, map_filter_px=map_filter_px(size_px))


def describe(config: ScoreConfig) -> str:
    """How images are scored, in one line of words."""
    views = "+".join(str(view) for view in sorted({look.view_px for look in config.looks}))
    sigmas = ", ".join(f"{sigma:g}" for sigma in sorted({look.sigma for look in config.looks}))
    pooling = f"mean of the top {config.pooling:.1%}" if config.pooling else "maximum"
    maps = f"scales {config.scales}, level {config.level}, normalisation {config.normalisation}"
    return f"{maps}, filter {config.filter_px} px, {pooling}; {views} px; noise {sigmas}"


def mean_filter(maps: Tensor, filter_px: int) -> Tensor:
    """Mean over a square window; at the border over the part of the window inside the map.

    Args:
        maps: (b, 1, h, w).
        filter_px: odd width; 1 leaves the map as it is.
    """
    if filter_px == 1:
        return maps
    half = filter_px // 2
    # Rows, then columns: the same mean for a fraction of the sums.
    for window, padding in (((filter_px, 1), (half, 0)), ((1, filter_px), (0, half))):
        maps = F.avg_pool2d(maps, window, stride=1, padding=padding, count_include_pad=False)
    return maps


def smooth(maps: Tensor, filter_px: int) -> Tensor:
    """The mean filter twice, whose window tapers off: one alone would draw its square around every speck.

    Args:
        maps: (b, 1, h, w).
        filter_px: odd width of each; 1 leaves the map as it is.
    """
    return mean_filter(mean_filter(maps, filter_px), filter_px)


def map_filter_px(size_px: int) -> int:
    """Width of the score map's smoothing: twice this comes near a Gaussian of 4 px in 256, the custom of the field."""
    return 2 * round(size_px * 4 / 256) + 1


def combine_scales(errors: list[Tensor], scales: Scales) -> list[Tensor]:
    """The maps that a look is judged by, from its errors at every scale.

    Args:
        errors: of :func:`advrad.detectors.scoring.scale_errors`, finest first.
        scales: as in :class:`ScoreConfig`.

    Returns:
        The errors themselves, or one map of the finest size.
    """
    if scales == "apart":
        return errors
    total = errors[0]
    for error in errors[1:]:
        total = total + F.interpolate(error, size=total.shape[2:], mode="bilinear")
    return [total / SCALES]


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
    return mean_filter(combine_scales(scale_errors(images, recon), "averaged")[0], filter_px)


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
class MapStatistics:
    """What one error map of normal images looks like.

    Attributes:
        mean: (1, 1, h, w) mean error map.
        spread: (1, 1, h, w) standard deviation of the error map per position, > 0.
        location: mean of the pooled score.
        scale: standard deviation of the pooled score, > 0.
        ceiling: up to where a map's own mean is divided out, > 0; see :func:`divide_by_image_mean`. No error in
            [0, 1] exceeds 1.
    """

    mean: Tensor
    spread: Tensor
    location: float = 0.0
    scale: float = 1.0
    ceiling: float = 1.0


#: The ceiling, in units of the largest mean error of a normal image: what is rougher than any of these is no longer
#: put down to roughness.
CEILING = 1.2


def ceiling_of(maps: Tensor) -> float:
    """The ceiling for :func:`divide_by_image_mean`, from error maps of normal images, (n, 1, h, w)."""
    return CEILING * float(maps.mean((1, 2, 3)).max()) + EPS


def divide_by_image_mean(maps: Tensor, level: Level, ceiling: float) -> Tensor:
    """Error maps in units of their own mean.

    No denoiser foretells fine texture, and how much of it there is differs from one piece to the next, as does the
    light. A score of absolute errors calls a rough piece defective; one of relative errors looks for a place that is
    worse than the rest of the same image. The mean is divided out only up to a ceiling: where the error is large
    all over, as in an image of something else, the relative error is large, too.

    Args:
        maps: (b, 1, h, w), >= 0.
        level: ``absolute`` leaves them as they are.
        ceiling: > 0.
    """
    if level == "absolute":
        return maps
    own = maps.mean((1, 2, 3), keepdim=True)
    return maps / own.clamp(EPS, ceiling)


#: Share of the average spread added to each position's: a spread from few images can be near 0 by luck.
SPREAD_FLOOR = 0.1
#: A change of a pixel that is no defect, [0, 1] units: what sensors, compression and flickering light do, and what an
#: adversary may. Where normal images hardly differ, an error of this size would else be many spreads wide.
HARMLESS = 8 / 255


def spread_floor(mean: Tensor, deviation: Tensor, how: Normalisation) -> Tensor:
    """What is added to every position's standard deviation, > 0.

    Args:
        mean: (n, 1, h, w) mean error map of normal images, absolute errors where ``how`` is ``tolerant``.
        deviation: its standard deviation, same shape.
        how: the normalisation. ``tolerant`` adds by how much an error rises when every pixel changes by
            :data:`HARMLESS`; the others add :data:`SPREAD_FLOOR` of the average.
    """
    if how == "tolerant":
        rise: Tensor = 2 * HARMLESS * mean.clamp_min(0).sqrt() + HARMLESS**2
        return rise
    return SPREAD_FLOOR * deviation.mean((1, 2, 3), keepdim=True) + EPS


def map_statistics(maps: Tensor, how: Normalisation = "spread") -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation per position.

    Args:
        maps: (n, 1, h, w) error maps of normal images, n >= 2.
        how: as in :func:`spread_floor`.

    Returns:
        Two tensors (1, 1, h, w).
    """
    mean = maps.mean(0, keepdim=True)
    deviation = maps.std(0, keepdim=True)
    return mean, deviation + spread_floor(mean, deviation, how)


def normalise(maps: Tensor, mean: Tensor, spread: Tensor, how: Normalisation) -> Tensor:
    """Relate error maps to those of normal images; see :class:`ScoreConfig`.

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


def standardise(maps: Tensor, normal: MapStatistics, config: ScoreConfig) -> tuple[Tensor, Tensor]:
    """From one error map to its part of the score.

    Args:
        maps: (b, 1, h, w) as of :func:`look_maps`.
        normal: statistics of this map.
        config: level, normalisation and pooling.

    Returns:
        Scores (b,) and maps (b, 1, h, w), both in units of the pooled score's spread over normal images.
    """
    maps = normalise(
        divide_by_image_mean(maps, config.level, normal.ceiling), normal.mean, normal.spread, config.normalisation
    )
    return (pool(maps, config.pooling) - normal.location) / normal.scale, (maps - normal.location) / normal.scale


def look_maps(
    denoiser: Denoiser,
    images: Tensor,
    look: NoiseView,
    config: ScoreConfig,
    generator: torch.Generator,
    path: GradientPath = "exact",
) -> tuple[list[Tensor], Tensor]:
    """Error maps of one look before normalisation, averaged over the draws.

    Args:
        denoiser: any denoiser.
        images: (b, 3, h, w) float in [0, 1].
        look: view and noise level.
        config: scales, filter, draws and steps.
        generator: source of all noise; rows share each draw.
        path: of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

    Returns:
        Error maps (b, 1, view_px, view_px), or one per scale, each half as large as the one before; and the mean
        reconstruction (b, 3, view_px, view_px). Differentiable.
    """
    view = resize(images, look.view_px)
    recons = [reconstruct(denoiser, view, look.sigma, generator, config.steps, path=path) for _ in range(config.draws)]
    maps = [
        mean_filter(errors, config.filter_px) for errors in combine_scales(mean_errors(view, recons), config.scales)
    ]
    return maps, torch.stack(recons).mean(0)


def mean_errors(images: Tensor, recons: Sequence[Tensor]) -> list[Tensor]:
    """Squared errors at every scale, averaged over reconstructions.

    Args:
        images: (b, 3, h, w).
        recons: each of that shape.

    Returns:
        As :func:`advrad.detectors.scoring.scale_errors`.
    """
    draws = [scale_errors(images, recon) for recon in recons]
    return [torch.stack(level).mean(0) for level in zip(*draws, strict=True)]


def scale_errors(images: Tensor, recon: Tensor) -> list[Tensor]:
    """Squared error after area-downsampling both images, one map per scale 1, 1/2, 1/4, 1/8.

    Args:
        images: (b, 3, h, w); h and w are multiples of 8.
        recon: same shape.

    Returns:
        List of (b, 1, h / 2^l, w / 2^l): mean over channels of the squared difference.
    """
    difference = images - recon
    reduced = [F.avg_pool2d(difference, 2**level) if level else difference for level in range(SCALES)]
    return [values.square().mean(1, keepdim=True) for values in reduced]
