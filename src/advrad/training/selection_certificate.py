"""A quick estimate of what would be certified of a score, so that scores can be ranked by it.

It makes few draws and takes their spread for a bell's, so it proves nothing; what holds is for a certification to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from torch import Tensor

from advrad.certificates.operator_norms import kernels, resize_norm
from advrad.certificates.two_path import bounded
from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.scoring import MapStatistics, NoiseView, ScoreConfig, combine_scales, mean_filter, scale_errors

Floats = npt.NDArray[np.float64]

DRAWS = 4
#: That may smooth the score. Where the scores of normal images scatter more than those of defects, or less, another
#: than the median tells them better apart.
QUANTILES = (0.3, 0.5, 0.7)
#: What another quantile than the median must gain in AUROC: so few draws tell its place less well.
MARGIN = 0.01
#: At most so many, of the normal images and of the defective ones.
IMAGES = (24, 36)


def certified_aurocs(
    denoiser: Denoiser,
    normals: Tensor,
    defective: Tensor,
    look: NoiseView,
    styles: Sequence[tuple[ScoreConfig, Sequence[MapStatistics]]],
    radius: float,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None = None,
) -> list[tuple[float, float]]:
    """AUROC that would be certified within a radius, for every style of scoring one look, and by which quantile.

    Args:
        denoiser: trained, in evaluation mode.
        normals: (n, 3, s, s) in [0, 1]; the first few are used.
        defective: (m, 3, s, s) in [0, 1]; the first few are used.
        look: that all styles share.
        styles: score and statistics of each; the looks in the score do not matter.
        radius: l2, in [0, 1] pixel units of these images.
        noise_seed: of the noise.
        autocast: arithmetic of the network.

    Returns:
        For every style the AUROC, and the quantile of :data:`QUANTILES` that reaches it; the median, unless another one
        gains more than :data:`MARGIN`.
    """
    images = torch.cat([normals[: IMAGES[0]], defective[: IMAGES[1]]])
    good = min(len(normals), IMAGES[0])
    device = next(denoiser.parameters()).device
    reach = radius * resize_norm(*images.shape[2:], look.view_px)
    generator = torch.Generator().manual_seed(noise_seed)
    lower: list[list[Tensor]] = [[] for _ in styles]
    upper: list[list[Tensor]] = [[] for _ in styles]
    with torch.no_grad():
        for part in torch.split(images, 8):
            view = resize(part.to(device), look.view_px)
            for _ in range(DRAWS):
                with autocast() if autocast else nullcontext():
                    recon = reconstruct(denoiser, view, look.sigma, generator, independent=True)
                errors = scale_errors(view, recon.float())
                for place, (config, statistics) in enumerate(styles):
                    maps = [mean_filter(m, config.filter_px).cpu() for m in combine_scales(errors, config.scales)]
                    rows = zip(maps, kernels(look, config), statistics, strict=True)
                    sides = [bounded(m, kernel, normal, config, reach) for m, kernel, normal in rows]
                    for side, values in zip((lower, upper), zip(*sides, strict=True), strict=True):
                        side[place].append(torch.stack(values).mean(0))
    areas = []
    for low, high in zip(lower, upper, strict=True):
        below, above = (_by_image(side, len(images)) for side in (low, high))
        areas.append(_by_quantile(below[good:], above[:good], reach / look.sigma))
    return areas


def _by_quantile(below: Floats, above: Floats, shift: float) -> tuple[float, float]:
    """The AUROC and the quantile, from bounds (images, draws): lower of the defective, upper of the normal ones."""

    def area(quantile: float) -> float:
        at = float(norm.ppf(quantile))
        least, most = below.mean(1) + (at - shift) * below.std(1), above.mean(1) + (at + shift) * above.std(1)
        return float((least[:, None] > most[None]).mean())

    areas = {quantile: area(quantile) for quantile in QUANTILES}
    best = max(areas, key=lambda quantile: areas[quantile])
    if areas[best] <= areas[0.5] + MARGIN:
        best = 0.5
    return areas[best], best


def _by_image(parts: list[Tensor], count: int) -> Floats:
    """(images, draws), from one tensor per batch and draw."""
    rows = [torch.stack(parts[start : start + DRAWS], 1) for start in range(0, len(parts), DRAWS)]
    values = torch.cat(rows).double().numpy()
    assert values.shape == (count, DRAWS)
    return values
