"""A quick estimate of the certified AUROC of a score, to rank candidate scores.

It assumes that a score is normally distributed over its noise, and uses four draws. So it is a ranking heuristic, not a
certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from advrad.certificates.operator_norms import map_norms
from advrad.certificates.two_path import score_bounds
from advrad.data.resize_norm import resize_norm
from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import MapStatistics, combine_scales, mean_filter, scale_errors
from advrad.training.error_statistics import Arithmetic, Floats

#: Noise draws per image.
DRAWS = 4
#: Quantiles that may smooth the score. If normal and anomalous scores vary differently over the noise, another quantile
#: than the median separates them better.
QUANTILES = (0.3, 0.5, 0.7)
#: Least gain in AUROC for which another quantile than the median is used; few draws locate it less precisely.
MARGIN = 0.01
#: Largest number of normal and of anomalous images.
IMAGES = (24, 36)

#: A score of one view, and the statistics of its error maps.
ScoreWithStatistics = tuple[ScoreConfig, Sequence[MapStatistics]]


def certified_aurocs(
    denoiser: Denoiser,
    normals: Tensor,
    anomalous: Tensor,
    view: NoiseView,
    scores: Sequence[ScoreWithStatistics],
    radius: float,
    noise_seed: int,
    arithmetic: Arithmetic = nullcontext,
) -> list[tuple[float, float]]:
    """Estimate the AUROC that would be certified within a radius, for scores that share one view.

    Args:
        denoiser: Trained denoiser, in evaluation mode.
        normals: Normal images, (n, 3, s, s) float in [0, 1]; the first few are used.
        anomalous: Anomalous images, (m, 3, s, s) float in [0, 1]; the first few are used.
        view: View size and noise level of all scores.
        scores: Scores with their statistics; the views in their configurations are not used.
        radius: Radius, l2, for pixel values in [0, 1] and images of size s.
        noise_seed: Seed of the noise.
        arithmetic: Arithmetic of the network.

    Returns:
        For each score the AUROC, and the quantile from :data:`QUANTILES` that gives it.
    """
    images = torch.cat([normals[: IMAGES[0]], anomalous[: IMAGES[1]]])
    normal_count = min(len(normals), IMAGES[0])
    distance = radius * resize_norm(*images.shape[2:], view.view_px)
    bounds = _score_bounds(denoiser, images, view, scores, distance, noise_seed, arithmetic)
    return [_by_quantile(lower[normal_count:], upper[:normal_count], distance / view.sigma) for lower, upper in bounds]


def _score_bounds(
    denoiser: Denoiser,
    images: Tensor,
    view: NoiseView,
    scores: Sequence[ScoreWithStatistics],
    distance: float,
    noise_seed: int,
    arithmetic: Arithmetic,
) -> list[tuple[Floats, Floats]]:
    """Lower and upper bounds of each score over perturbations up to ``distance``, (images, draws) each."""
    device = denoiser.device
    generator = torch.Generator().manual_seed(noise_seed)
    lower: list[list[Tensor]] = [[] for _ in scores]
    upper: list[list[Tensor]] = [[] for _ in scores]
    with torch.no_grad():
        for part in torch.split(images, 8):
            resized = resize(part.to(device), view.view_px)
            for _ in range(DRAWS):
                with arithmetic():
                    recon = reconstruct(denoiser, resized, view.sigma, generator, independent=True)
                errors = scale_errors(resized, recon.float())
                for index, (config, statistics) in enumerate(scores):
                    maps = [mean_filter(m, config.filter_px).cpu() for m in combine_scales(errors, config.scales)]
                    rows = zip(maps, map_norms(view, config), statistics, strict=True)
                    sides = [score_bounds(m, norms, normal, config, distance) for m, norms, normal in rows]
                    for side, values in zip((lower, upper), zip(*sides, strict=True), strict=True):
                        side[index].append(torch.stack(values).mean(0))
    return [(_by_image(low), _by_image(high)) for low, high in zip(lower, upper, strict=True)]


def _by_quantile(lower: Floats, upper: Floats, shift: float) -> tuple[float, float]:
    """Choose the quantile with the highest AUROC.

    Args:
        lower: Lower bounds of the scores of anomalous images, (images, draws).
        upper: Upper bounds of the scores of normal images, (images, draws).
        shift: Shift of the noise by the perturbation, in standard deviations.

    Returns:
        The AUROC and the quantile.
    """

    def auroc_at(quantile: float) -> float:
        at = float(ndtri(quantile))
        least = lower.mean(1) + (at - shift) * lower.std(1)
        most = upper.mean(1) + (at + shift) * upper.std(1)
        return float((least[:, None] > most[None]).mean())

    aurocs = {quantile: auroc_at(quantile) for quantile in QUANTILES}
    best = max(aurocs, key=lambda quantile: aurocs[quantile])
    if aurocs[best] <= aurocs[0.5] + MARGIN:
        best = 0.5
    return aurocs[best], best


def _by_image(parts: list[Tensor]) -> Floats:
    """Arrange values as (images, draws); ``parts`` holds one tensor per batch and draw, batch by batch."""
    rows = [torch.stack(parts[start : start + DRAWS], 1) for start in range(0, len(parts), DRAWS)]
    return np.asarray(torch.cat(rows).double().numpy())
