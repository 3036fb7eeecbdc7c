"""The two-path certificate: bounds on AdvRAD's own score, smoothed by the noise that it adds anyway.

The image enters the score twice. Through the noised image it reaches the reconstruction; that path is smoothed
already. And it is compared with the reconstruction as it is; that path is Lipschitz, with constants that can be
computed (:mod:`advrad.certificates.operator_norms`). So no second noise is needed, and no error floor comes with
it. The proof is in docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.operator_norms import Kernel, kernels, resize_norm
from advrad.certificates.smoothing import side_by_side
from advrad.data.transforms import resize
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import (
    EPS,
    MapStatistics,
    combine_scales,
    mean_filter,
    normalise,
    pool,
    pooled_count,
    scale_errors,
)

Floats = npt.NDArray[np.float64]


def bounded(
    maps: Tensor, kernel: Kernel, normal: MapStatistics, config: ScoreConfig, reach: float
) -> tuple[Tensor, Tensor]:
    """Bounds on a standardised score, if the image moves and the reconstruction stays.

    Args:
        maps: (b, 1, h, w) filtered error maps, >= 0.
        kernel: of this map.
        normal: statistics of this map.
        config: level, normalisation and pooling.
        reach: how far the image may move, l2 at the map's view, >= 0.

    Returns:
        Lower and upper bound, (b,) each, in the units of
        :func:`advrad.detectors.scoring.standardise`; equal where reach is 0.
    """
    roots = maps.clamp_min(0).sqrt()
    cells = kernel.cells.to(maps)
    low, high = (roots - cells * reach).clamp_min(0).square(), (roots + cells * reach).square()
    least = most = torch.ones_like(maps[:, :, :1, :1])
    if config.normalise_by_image_mean:
        own = maps.mean((1, 2, 3), keepdim=True).sqrt()
        change = reach * kernel.sum_norm(torch.full_like(maps[:1], 1 / maps[0].numel()))
        least = (own - change).clamp_min(0).square().clamp(EPS, normal.ceiling)
        most = (own + change).square().clamp(EPS, normal.ceiling)
        low, high = low / most, high / least
    if config.normalisation == "mean":  # |E - mu| does not rise with E everywhere
        below, above = low - normal.mean, high - normal.mean
        lower = pool(torch.maximum(below, -above).clamp_min(0), config.pooling)
        upper = pool(torch.maximum(above, -below), config.pooling)
    else:
        low, high = (normalise(m, normal.mean, normal.spread, config.normalisation) for m in (low, high))
        # Pooling rises with every cell of the map; and no change can move all cells at once.
        lower, upper = pool(low, config.pooling), pool(high, config.pooling)
        if reach > 0:
            together = TopKMeanBound(kernel, normal, config, maps)
            lower = torch.maximum(lower, together.least(maps / most, reach / most.sqrt()))
            upper = torch.minimum(upper, together.most(maps / least, reach / least.sqrt(), low, high))
    return (lower - normal.location) / normal.scale, (upper - normal.location) / normal.scale


class TopKMeanBound:
    """Bounds on the mean of a map's largest cells, from what a change can do to all of them together.

    For any set of k cells ``sqrt(mean w E)`` moves by at most a norm of its own; the proofs are in
    docs/certificates.md.
    """

    def __init__(self, kernel: Kernel, normal: MapStatistics, config: ScoreConfig, maps: Tensor) -> None:
        spread = torch.ones_like(maps[:1]) if config.normalisation == "none" else normal.spread
        self.weights = 1 / spread
        self.offsets = torch.zeros_like(spread) if config.normalisation == "none" else normal.mean / spread
        self.count = pooled_count(maps[0].numel(), config.pooling)
        self.kernel = kernel

    def _largest(self, values: Tensor) -> Tensor:
        """The set of the k largest cells, as a mask, (b, 1, h, w)."""
        flat = values.flatten(1)
        chosen = flat.topk(self.count, dim=1).indices
        return torch.zeros_like(flat).scatter_(1, chosen, 1.0).view_as(values)

    def _mean(self, values: Tensor, chosen: Tensor) -> Tensor:
        return (values * chosen).flatten(1).sum(1) / self.count

    def _norm(self, chosen: Tensor) -> Tensor:
        """Of the map to ``sqrt(mean w E)`` over any k cells out of those chosen, (b,)."""
        return self.kernel.sum_norm(self.weights * chosen / self.count)

    def least(self, maps: Tensor, reach: Tensor) -> Tensor:
        """Lower bound: the cells that are the largest now will not have a smaller mean than this, (b,)."""
        weighted = self.weights * maps
        chosen = self._largest(weighted - self.offsets)
        root = self._mean(weighted, chosen).clamp_min(0).sqrt()
        moved = (root - self._norm(chosen) * reach.flatten()).clamp_min(0).square()
        return moved - self._mean(self.offsets.expand_as(chosen), chosen)

    def most(self, maps: Tensor, reach: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Upper bound, over all sets of k cells that may become the largest, (b,)."""
        bar = low.flatten(1).topk(self.count, dim=1).values[:, -1]
        possible = (high >= bar[:, None, None, None]).to(maps)
        step = self._norm(possible) * reach.flatten()
        weighted = self.weights * maps
        chosen = self._largest(weighted - self.offsets)
        # 2 sqrt(a) <= a / t + t for any t > 0: linear in the map, so the set that maximises it is again the largest.
        # The two are equal at t = sqrt(a); of a root near 0 the quotient would make too much.
        t = torch.maximum(self._mean(weighted, chosen).clamp_min(0).sqrt(), step / 8).clamp_min(EPS)
        steeper = weighted * (1 + step / t)[:, None, None, None] - self.offsets
        return steeper.flatten(1).topk(self.count, dim=1).values.mean(1) + step * t + step.square()


class TwoPath:
    """AdvRAD, smoothed by its own noise; each look is a part of the score.

    Args:
        detector: trained; put in evaluation mode.
        at_once: draws that go through the network side by side; None for what suits the device.
    """

    method = "two-path"
    largest = "a detector that looks through stronger noise (train or calibrate with --optimise-for-radius)"

    def __init__(self, detector: AdvRAD, at_once: int | None = None) -> None:
        self.detector = detector.eval()
        self.at_once = at_once or side_by_side(detector.device)
        self.config = detector.detector_config.score
        self.quantile: float = self.config.quantile

    def _reaches(self, height_px: int, width_px: int) -> list[float]:
        """How far a change of length 1 can move the image at each look's view."""
        size_px = self.detector.size_px
        return [resize_norm(height_px, width_px, size_px, look.view_px) for look in self.config.views]

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """See :class:`advrad.certificates.smoothing.Sampler`."""
        reaches = self._reaches(height_px, width_px)
        return tuple(reach / look.sigma for reach, look in zip(reaches, self.config.views, strict=True))

    def draw(
        self, image: Tensor, radii: Sequence[float], count: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """See :class:`advrad.certificates.smoothing.Sampler`."""
        given = resize(image[None].to(self.detector.device), self.detector.size_px)
        lower = np.empty((len(self.config.views), len(radii), count))
        upper = np.empty_like(lower)
        reaches = self._reaches(*image.shape[1:])
        for part, (look, reach) in enumerate(zip(self.config.views, reaches, strict=True)):
            view = resize(given, look.view_px)
            for start in range(0, count, self.at_once):
                drawn = slice(start, min(start + self.at_once, count))
                maps = self._maps(view.expand(drawn.stop - start, -1, -1, -1), look, generator)
                for row, radius in enumerate(radii):
                    bounds = [self._bounded(m, look, index, radius * reach) for index, m in enumerate(maps)]
                    for side, values in zip((lower, upper), zip(*bounds, strict=True), strict=True):
                        side[part, row, drawn] = torch.stack(values).mean(0).double().cpu().numpy()
        return lower, upper

    def _maps(self, views: Tensor, look: NoiseView, generator: torch.Generator) -> list[Tensor]:
        """Filtered error maps of one draw each, for equal views."""
        config = self.config
        with torch.no_grad():
            # The network may compute in whatever arithmetic: it sees the noised image only, and whatever it makes of
            # that is covered. The comparison, which sees the image itself, is in float32.
            with self.detector.arithmetic():
                recon = reconstruct(
                    self.detector.denoiser, views, look.sigma, generator, config.steps, independent=True
                )
            return [
                mean_filter(m, config.filter_px)
                for m in combine_scales(scale_errors(views, recon.float()), config.scales)
            ]

    def _bounded(self, maps: Tensor, look: NoiseView, index: int, reach: float) -> tuple[Tensor, Tensor]:
        kernel = kernels(look, self.config)[index]
        return bounded(maps, kernel, self.detector.normal(look, index), self.config, reach)
