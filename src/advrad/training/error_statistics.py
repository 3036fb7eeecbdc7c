"""Reconstruction errors of many images, and the statistics of normal error maps that a score needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.score_config import NoiseView, Normalisation, ScoreConfig
from advrad.detectors.scoring import (
    EPS,
    MapStatistics,
    ceiling_of,
    combine_scales,
    divide_by_image_mean,
    map_statistics,
    mean_errors,
    mean_filter,
    normalise,
    pool,
    pooled_count,
)
from advrad.training.score_candidates import SearchSpace, Style

Floats = npt.NDArray[np.float64]
#: Makes the context in which the network computes, such as autocast.
Arithmetic = Callable[[], AbstractContextManager[object]]


def measure_errors(
    denoiser: Denoiser,
    images: Tensor,
    view: NoiseView,
    noise_seed: int,
    arithmetic: Arithmetic = nullcontext,
    *,
    draws: int = 1,
    steps: int = 1,
    batch_size: int = 8,
) -> list[Tensor]:
    """Compute the squared reconstruction errors of images at one view.

    Each image gets its own noise, because the statistics must hold for whatever noise the detector draws later.

    Args:
        denoiser: Denoiser, in evaluation mode.
        images: Images, (n, 3, h, w) float in [0, 1].
        view: View size and noise level.
        noise_seed: Seed of the noise.
        arithmetic: Arithmetic of the network.
        draws: Number of noise draws per image; their errors are averaged.
        steps: Number of denoising steps per reconstruction.
        batch_size: Images per pass of the network.

    Returns:
        Errors at each scale, finest first, (n, 1, h, w) each, float32, on the CPU.
    """
    parts = []
    device = denoiser.device
    generator = torch.Generator().manual_seed(noise_seed)
    with torch.no_grad():
        for part in torch.split(images, batch_size):
            resized = resize(part.to(device), view.view_px)
            with arithmetic():
                recons = [
                    reconstruct(denoiser, resized, view.sigma, generator, steps, independent=True) for _ in range(draws)
                ]
            parts.append([scale.float().cpu() for scale in mean_errors(resized, recons)])
    return [torch.cat(scale) for scale in zip(*parts, strict=True)]


def fit_statistics(
    denoiser: Denoiser,
    references: Tensor,
    normals: Tensor,
    config: ScoreConfig,
    noise_seed: int,
    arithmetic: Arithmetic = nullcontext,
) -> tuple[MapStatistics, ...]:
    """Compute the statistics of every error map of a score.

    Args:
        denoiser: Denoiser, in evaluation mode.
        references: Normal images from which the mean and the spread of each map are taken, (r, 3, s, s), r >= 2. The
            denoiser may have been trained on them.
        normals: Normal images from which the location and the scale of the scores are taken, (n, 3, s, s), n >= 2.
            The denoiser was not trained on them.
        config: Score.
        noise_seed: Seed of the noise.
        arithmetic: Arithmetic of the network.

    Returns:
        Statistics of each error map, view by view.
    """
    images = torch.cat([references, normals])
    statistics: list[MapStatistics] = []
    for view in config.views:
        errors = measure_errors(denoiser, images, view, noise_seed, arithmetic, draws=config.draws, steps=config.steps)
        statistics += statistics_of_errors(errors, len(references), config)
    return tuple(statistics)


def statistics_of_errors(errors: list[Tensor], references: int, config: ScoreConfig) -> list[MapStatistics]:
    """Compute the statistics of the error maps of one view.

    Args:
        errors: Errors of the reference images, then of the held-out normal images, (r + n, 1, h, w) for each scale.
        references: Number of reference images, r.
        config: Score.

    Returns:
        Statistics of each error map of the view.
    """
    statistics = []
    for raw in combine_scales(errors, config.scales):
        maps, mean, spread, ceiling = _prepare(
            raw, references, config.filter_px, config.normalise_by_image_mean, config.normalisation
        )
        scores = pool(normalise(maps[references:], mean, spread, config.normalisation), config.pooling)
        statistics.append(MapStatistics(mean, spread, float(scores.mean()), float(scores.std()) + EPS, ceiling))
    return statistics


def scores_by_style(
    errors: list[Tensor], references: int, normals: int, space: SearchSpace
) -> Iterator[tuple[Style, Floats]]:
    """Score images at one view in every style of a search space.

    Args:
        errors: Errors of the references, the held-out normal images and the anomalous images, at each scale.
        references: Number of reference images.
        normals: Number of held-out normal images.
        space: Styles to try.

    Yields:
        A style, and the scores of the normal and the anomalous images, (n + m,).
    """
    kinds = [(kind, filter_px) for kind in space.kinds for filter_px in kind.filters_px]
    for (kind, filter_px), normalisation in itertools.product(kinds, space.normalisations):
        by_pooling: dict[float, list[Floats]] = {pooling: [] for pooling in space.poolings}
        for raw in combine_scales(errors, kind.scales):
            maps, mean, spread, _ = _prepare(raw, references, filter_px, kind.normalise_by_image_mean, normalisation)
            normalised = normalise(maps[references:], mean, spread, normalisation).flatten(1)
            # The largest values are sorted once for all poolings.
            largest = normalised.topk(pooled_count(normalised.shape[1], max(space.poolings)), dim=1).values
            for pooling in space.poolings:
                count = pooled_count(normalised.shape[1], pooling)
                by_pooling[pooling].append(_standardise(largest[:, :count].mean(1).double().numpy(), normals))
        for pooling, scores in by_pooling.items():
            style = Style(kind.scales, kind.normalise_by_image_mean, normalisation, filter_px, pooling)
            yield style, np.mean(scores, axis=0)


def _prepare(
    raw: Tensor, references: int, filter_px: int, normalise_by_image_mean: bool, normalisation: Normalisation
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Filter error maps, and compute the mean, the spread and the ceiling of the first ``references`` of them."""
    maps = mean_filter(raw, filter_px)
    ceiling = ceiling_of(maps[:references])
    if normalise_by_image_mean:
        maps = divide_by_image_mean(maps, ceiling)
    return maps, *map_statistics(maps[:references], normalisation), ceiling


def _standardise(values: Floats, normals: int) -> Floats:
    """Give the first ``normals`` values mean 0 and standard deviation 1."""
    standardised: Floats = (values - values[:normals].mean()) / (values[:normals].std() + 1e-12)
    return standardised
