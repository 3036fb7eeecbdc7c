"""Error maps of a reconstruction, and the anomaly score computed from them.

Neither maps nor scores are clamped or squashed, so gradients reach an attacker unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.data.transforms import resize
from advrad.denoisers.base import SCALES, Denoiser
from advrad.denoisers.sampling import GradientPath, Noise, reconstruct
from advrad.detectors.score_config import NoiseView, Normalisation, Scales, ScoreConfig

#: Lower bound of every divisor: the errors of images of one flat colour may all be 0.
EPS = 1e-12


def mean_filter(maps: Tensor, filter_px: int) -> Tensor:
    """Average maps over a square window; at the border over the part of the window inside the map.

    Args:
        maps: Maps, (b, 1, h, w).
        filter_px: Width of the window, odd; 1 returns the maps unchanged.
    """
    if filter_px == 1:
        return maps
    half = filter_px // 2
    # Rows, then columns: the same mean with far fewer sums.
    for window, padding in (((filter_px, 1), (half, 0)), ((1, filter_px), (0, half))):
        maps = F.avg_pool2d(maps, window, stride=1, padding=padding, count_include_pad=False)
    return maps


def smooth(maps: Tensor, filter_px: int) -> Tensor:
    """Apply the mean filter twice; once alone would draw its square window around every bright cell.

    Args:
        maps: Maps, (b, 1, h, w).
        filter_px: Width of each filter, odd; 1 returns the maps unchanged.
    """
    return mean_filter(mean_filter(maps, filter_px), filter_px)


def combine_scales(errors: list[Tensor], scales: Scales) -> list[Tensor]:
    """Make the error maps of a view from its errors at every scale.

    Args:
        errors: Errors from :func:`scale_errors`, finest first.
        scales: Way of combining them, as in :class:`advrad.detectors.score_config.ScoreConfig`.

    Returns:
        The errors unchanged, or one map of the finest size.
    """
    if scales == "separate":
        return errors
    total = errors[0]
    for error in errors[1:]:
        total = total + F.interpolate(error, size=total.shape[2:], mode="bilinear")
    return [total / SCALES]


def error_map(images: Tensor, recon: Tensor, filter_px: int = 3) -> Tensor:
    """Compute the per-pixel multiscale reconstruction error.

    Args:
        images: Images, (b, 3, h, w), float in [0, 1]; h and w are multiples of 8.
        recon: Reconstructions, same shape and range.
        filter_px: Width of the mean filter; 1 disables it.

    Returns:
        Error maps, (b, 1, h, w), >= 0; larger is more anomalous. Row i depends on row i only. Differentiable in both
        arguments.

    Source: AdvRAD, multiscale error map (scales 1, 1/2, 1/4, 1/8, averaged).
    """
    return mean_filter(combine_scales(scale_errors(images, recon), "averaged")[0], filter_px)


def pooled_count(pixels: int, share: float) -> int:
    """Number of values that a pooling share averages, out of ``pixels``; at least 1."""
    return max(1, round(share * pixels))


def pool(maps: Tensor, share: float) -> Tensor:
    """Average the largest values of each map.

    Args:
        maps: Maps, (b, 1, h, w).
        share: Share of the pixels, 0 to 1; 0 takes the maximum, 1 the mean.

    Returns:
        Pooled values, (b,).
    """
    flat = maps.flatten(1)
    count = pooled_count(flat.shape[1], share)
    return flat.amax(1) if count == 1 else flat.topk(count, dim=1).values.mean(1)


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of one error map over normal images.

    Attributes:
        mean: Mean error map, (1, 1, h, w).
        spread: Standard deviation of the error map per position, (1, 1, h, w), > 0.
        location: Mean of the pooled score.
        scale: Standard deviation of the pooled score, > 0.
        ceiling: Largest mean by which a map is divided, > 0; see :func:`divide_by_image_mean`. No error of images in
            [0, 1] exceeds 1.
    """

    mean: Tensor
    spread: Tensor
    location: float = 0.0
    scale: float = 1.0
    ceiling: float = 1.0


#: The ceiling, as a multiple of the largest mean error of a normal image. An image whose mean error is above it is
#: rougher than texture explains.
CEILING = 1.2


def soft_maximum(values: Tensor) -> Tensor:
    """Soft maximum of each row, (b,), at a temperature of half the row's own standard deviation.

    Args:
        values: Values, (b, n); a single one is its own maximum.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    # A constant without gradient: otherwise an attack could raise the loss by raising the temperature.
    temperature = 0.5 * values.detach().std(1, keepdim=True) + 1e-12
    found: Tensor = (temperature * torch.logsumexp(values / temperature, 1, keepdim=True))[:, 0]
    return found


def ceiling_of(maps: Tensor) -> float:
    """Ceiling for :func:`divide_by_image_mean`, from error maps of normal images, (n, 1, h, w)."""
    return CEILING * float(maps.mean((1, 2, 3)).max()) + EPS


def divide_by_image_mean(maps: Tensor, ceiling: float) -> Tensor:
    """Divide each error map by its own mean.

    No denoiser predicts fine texture, and its amount differs between pieces, as does the light. A score of absolute
    errors calls a rough piece anomalous; a score of relative errors looks for a place that is worse than the rest of
    the same image. The divisor is bounded by the ceiling: where the error is large everywhere, as in an image of
    another object, the relative error is large too.

    Args:
        maps: Error maps, (b, 1, h, w), >= 0.
        ceiling: Largest divisor, > 0.
    """
    own = maps.mean((1, 2, 3), keepdim=True)
    return maps / own.clamp(EPS, ceiling)


#: Share of the average spread that is added at each position: a spread from few images can be near 0 by chance.
SPREAD_FLOOR = 0.1
#: Change of a pixel that is no anomaly, [0, 1] units: what sensors, compression and flickering light cause, and what an
#: adversary is allowed. Where normal images hardly differ, an error of this size would be many spreads.
HARMLESS = 8 / 255


def spread_floor(mean: Tensor, deviation: Tensor, how: Normalisation) -> Tensor:
    """Compute what is added to the standard deviation at every position, > 0.

    Args:
        mean: Mean error maps of normal images, (n, 1, h, w); of absolute errors where ``how`` is ``noise_tolerant``.
        deviation: Standard deviations, same shape.
        how: Normalisation. ``noise_tolerant`` adds the rise of the error when every pixel changes by :data:`HARMLESS`;
            the others add :data:`SPREAD_FLOOR` times the average.
    """
    if how == "noise_tolerant":
        rise: Tensor = 2 * HARMLESS * mean.clamp_min(0).sqrt() + HARMLESS**2
        return rise
    return SPREAD_FLOOR * deviation.mean((1, 2, 3), keepdim=True) + EPS


def map_statistics(maps: Tensor, how: Normalisation = "spread") -> tuple[Tensor, Tensor]:
    """Compute the mean and the floored standard deviation per position.

    Args:
        maps: Error maps of normal images, (n, 1, h, w), n >= 2.
        how: Normalisation, as in :func:`spread_floor`.

    Returns:
        Mean and standard deviation, (1, 1, h, w) each.
    """
    mean = maps.mean(0, keepdim=True)
    deviation = maps.std(0, keepdim=True)
    return mean, deviation + spread_floor(mean, deviation, how)


def normalise(maps: Tensor, mean: Tensor, spread: Tensor, how: Normalisation) -> Tensor:
    """Normalise error maps by those of normal images; see :class:`advrad.detectors.score_config.ScoreConfig`.

    Args:
        maps: Error maps, (b, 1, h, w).
        mean: Mean error map, broadcastable to ``maps``.
        spread: Standard deviation per position, broadcastable to ``maps``, > 0.
        how: Normalisation.
    """
    if how == "none":
        return maps
    if how == "mean":
        return (maps - mean).abs()
    return (maps - mean) / spread


def standardise(maps: Tensor, normal: MapStatistics, config: ScoreConfig) -> tuple[Tensor, Tensor]:
    """Turn one error map into its part of the score.

    Args:
        maps: Error maps from :func:`view_error_maps`, (b, 1, h, w).
        normal: Statistics of this map over normal images.
        config: Score; its normalisation and pooling are used.

    Returns:
        Scores (b,) and maps (b, 1, h, w), both in units of the pooled score's spread over normal images.
    """
    if config.normalise_by_image_mean:
        maps = divide_by_image_mean(maps, normal.ceiling)
    maps = normalise(maps, normal.mean, normal.spread, config.normalisation)
    return (pool(maps, config.pooling) - normal.location) / normal.scale, (maps - normal.location) / normal.scale


def view_error_maps(
    denoiser: Denoiser,
    images: Tensor,
    view: NoiseView,
    config: ScoreConfig,
    generator: Noise,
    path: GradientPath = "exact",
) -> tuple[list[Tensor], Tensor]:
    """Compute the error maps of one view before normalisation, averaged over the noise draws.

    Args:
        denoiser: Denoiser.
        images: Images, (b, 3, h, w), float in [0, 1].
        view: Size and noise level.
        config: Score; its scales, filter, draws and steps are used.
        generator: Source of all noise; rows share each draw.
        path: Path of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

    Returns:
        Error maps, (b, 1, view_px, view_px), or one per scale, each half the size of the one before; and the mean
        reconstruction, (b, 3, view_px, view_px). Differentiable.
    """
    resized = resize(images, view.view_px)
    recons = [
        reconstruct(denoiser, resized, view.sigma, generator, config.steps, path=path) for _ in range(config.draws)
    ]
    errors = combine_scales(mean_errors(resized, recons), config.scales)
    return [mean_filter(error, config.filter_px) for error in errors], torch.stack(recons).mean(0)


def mean_errors(images: Tensor, recons: Sequence[Tensor]) -> list[Tensor]:
    """Average the squared errors at every scale over several reconstructions.

    Args:
        images: Images, (b, 3, h, w).
        recons: Reconstructions, each of that shape.

    Returns:
        Errors as from :func:`scale_errors`.
    """
    draws = [scale_errors(images, recon) for recon in recons]
    return [torch.stack(errors).mean(0) for errors in zip(*draws, strict=True)]


def scale_errors(images: Tensor, recon: Tensor) -> list[Tensor]:
    """Compute squared errors after downsampling by area averaging, one map for each of the scales 1, 1/2, 1/4, 1/8.

    Args:
        images: Images, (b, 3, h, w); h and w are multiples of 8.
        recon: Reconstructions, same shape.

    Returns:
        Mean over channels of the squared difference, a list of (b, 1, h / 2^l, w / 2^l).
    """
    difference = images - recon
    reduced = [F.avg_pool2d(difference, 2**scale) if scale else difference for scale in range(SCALES)]
    return [values.square().mean(1, keepdim=True) for values in reduced]
