"""The two-path certificate: bounds on AdvRAD's own score, smoothed by the noise that it adds anyway.

The picture enters the score twice. Through the noised picture it reaches the reconstruction; that path is smoothed
already. And it is compared with the reconstruction as it is; that path is Lipschitz, with constants that can be
computed (:mod:`advrad.norms`). So no second noise is needed, and no error floor comes with it. The proof is in
docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.denoiser import scale_errors
from advrad.detector import AdvRAD
from advrad.norms import map_norms, mean_norms, resize_norm
from advrad.pictures import resize
from advrad.reconstruct import reconstruct
from advrad.score import LEAST, Look, MapStatistics, ScoreConfig, arrange, mean_filter, normalise, pool
from advrad.smoothing import BATCH

Floats = npt.NDArray[np.float64]


def bounded(
    maps: Tensor, norms: Tensor, own_norm: float, normal: MapStatistics, config: ScoreConfig, reach: float
) -> tuple[Tensor, Tensor]:
    """Bounds on a standardised score, if the picture moves and the reconstruction stays.

    Args:
        maps: (b, 1, h, w) filtered error maps, >= 0.
        norms: (1, 1, h, w) of :func:`advrad.norms.map_norms`.
        own_norm: of :func:`advrad.norms.mean_norms`.
        normal: statistics of this map.
        config: level, normalisation and pooling.
        reach: how far the picture may move, l2 at the map's view, >= 0.

    Returns:
        Lower and upper bound, (b,) each, in the units of :func:`advrad.score.standardise`; equal where reach is 0.
    """
    roots = maps.clamp_min(0).sqrt()
    low = (roots - norms * reach).clamp_min(0).square()
    high = (roots + norms * reach).square()
    if config.level == "relative":
        own = maps.mean((1, 2, 3), keepdim=True).sqrt()
        least = (own - own_norm * reach).clamp_min(0).square().clamp(LEAST, normal.ceiling)
        most = (own + own_norm * reach).square().clamp(LEAST, normal.ceiling)
        low, high = low / most, high / least
    if config.normalisation == "mean":  # |E - mu| does not rise with E everywhere
        below, above = low - normal.mean, high - normal.mean
        low = torch.maximum(below, -above).clamp_min(0)
        high = torch.maximum(above, -below)
    else:
        low, high = (normalise(m, normal.mean, normal.spread, config.normalisation) for m in (low, high))
    # Pooling and the rest rise with every cell of the map.
    lower, upper = ((pool(m, config.pooling) - normal.location) / normal.scale for m in (low, high))
    return lower, upper


class TwoPath:
    """AdvRAD, smoothed by its own noise; each look is a part of the score.

    Args:
        detector: trained; put in evaluation mode.
    """

    method = "two-path"
    largest = "a detector that looks through stronger noise (train or calibrate with --optimise-for-radius)"

    def __init__(self, detector: AdvRAD) -> None:
        self.detector = detector.eval()
        self.config = detector.detector_config.score

    def _reaches(self, height_px: int, width_px: int) -> list[float]:
        """How far a change of length 1 can move the picture at each look's view."""
        size_px = self.detector.size_px
        return [resize_norm(height_px, width_px, size_px, look.view_px) for look in self.config.looks]

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """See :class:`advrad.smoothing.Sampler`."""
        reaches = self._reaches(height_px, width_px)
        return tuple(reach / look.sigma for reach, look in zip(reaches, self.config.looks, strict=True))

    def draw(
        self, image: Tensor, radii: Sequence[float], count: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """See :class:`advrad.smoothing.Sampler`."""
        given = resize(image[None].to(self.detector.device), self.detector.size_px)
        lower = np.empty((len(self.config.looks), len(radii), count))
        upper = np.empty_like(lower)
        reaches = self._reaches(*image.shape[1:])
        for part, (look, reach) in enumerate(zip(self.config.looks, reaches, strict=True)):
            view = resize(given, look.view_px)
            for start in range(0, count, BATCH):
                drawn = slice(start, min(start + BATCH, count))
                maps = self._maps(view.expand(drawn.stop - start, -1, -1, -1), look, generator)
                for row, radius in enumerate(radii):
                    bounds = [self._bounded(m, look, index, radius * reach) for index, m in enumerate(maps)]
                    for side, values in zip((lower, upper), zip(*bounds, strict=True), strict=True):
                        side[part, row, drawn] = torch.stack(values).mean(0).double().cpu().numpy()
        return lower, upper

    def _maps(self, views: Tensor, look: Look, generator: torch.Generator) -> list[Tensor]:
        """Filtered error maps of one draw each, for equal views."""
        config = self.config
        with torch.no_grad():
            # The network may compute in whatever arithmetic: it sees the noised picture only, and whatever it makes of
            # that is covered. The comparison, which sees the picture itself, is in float32.
            with self.detector.arithmetic():
                recon = reconstruct(
                    self.detector.denoiser, views, look.sigma, generator, config.steps, independent=True
                )
            return [
                mean_filter(m, config.filter_px) for m in arrange(scale_errors(views, recon.float()), config.scales)
            ]

    def _bounded(self, maps: Tensor, look: Look, index: int, reach: float) -> tuple[Tensor, Tensor]:
        norms, own = map_norms(look, self.config)[index].to(maps.device), mean_norms(look, self.config)[index]
        return bounded(maps, norms, own, self.detector.normal(look, index), self.config, reach)
