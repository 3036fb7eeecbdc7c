"""The two-path certificate: bounds on AdvRAD's own score, smoothed by the noise that the detector itself adds.

The image enters the score on two paths. On the first it is noised and reconstructed; the noise smooths this path. On
the second it is compared with the reconstruction; this path is Lipschitz with computable constants
(:mod:`advrad.certificates.operator_norms`).

Theorem. Let ``S = g(x, R(z))`` with ``z = V x + sigma eps``, where V resizes the image and R is any reconstruction. For
every R let ``S_low <= g(x + delta, R) <= S_high`` for all ``|delta| <= r``. Then for all ``|delta| <= r`` the quantile
of ``S(x + delta)`` at p lies between the quantile of ``S_low`` at ``Phi(Phi^-1(p) - s)`` and that of ``S_high`` at
``Phi(Phi^-1(p) + s)``, both over the noise around the unperturbed image, with ``s = |V| r / sigma``.

No second noise is needed. The proof is in docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from advrad.certificates.operator_norms import MapNorms, map_norms
from advrad.certificates.order_statistics import Floats
from advrad.certificates.smoothing import batch_size_on
from advrad.data.resize_norm import framed_norm
from advrad.data.transforms import resize
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector, SupportsTwoPath
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


def score_bounds(
    maps: Tensor, norms: MapNorms, normal: MapStatistics, config: ScoreConfig, distance: float
) -> tuple[Tensor, Tensor]:
    """Bound a standardised score over all perturbations of the image, for a fixed reconstruction.

    A cell of the map is ``E = |M d|^2`` with ``d`` the difference of image and reconstruction and a linear M, so
    ``sqrt(E)`` changes by at most ``|M| * distance``.

    Args:
        maps: Filtered error maps, (b, 1, h, w), >= 0.
        norms: Operator norms of this map.
        normal: Statistics of this map over normal images.
        config: Normalisation and pooling of the score.
        distance: Largest l2 change of the image at the view's size, >= 0.

    Returns:
        Lower and upper bound, (b,) each, in the units of :func:`advrad.detectors.scoring.standardise`; equal for
        distance 0.
    """
    # Step 1: an interval for every cell of the error map.
    roots = maps.clamp_min(0).sqrt()
    cells = norms.cells.to(maps)
    low, high = (roots - cells * distance).clamp_min(0).square(), (roots + cells * distance).square()
    # Step 2: if cells are divided by the map's own mean, an interval for that mean.
    mean_low = mean_high = torch.ones_like(maps[:, :, :1, :1])
    if config.normalise_by_image_mean:
        root = maps.mean((1, 2, 3), keepdim=True).sqrt()
        change = distance * norms.sum_norm(torch.full_like(maps[:1], 1 / maps[0].numel()))
        mean_low = (root - change).clamp_min(0).square().clamp(EPS, normal.ceiling)
        mean_high = (root + change).square().clamp(EPS, normal.ceiling)
        low, high = low / mean_high, high / mean_low
    # Step 3: an interval for the pooled map.
    if config.normalisation == "mean":  # |E - mean| is not monotone in E
        below, above = low - normal.mean, high - normal.mean
        lower = pool(torch.maximum(below, -above).clamp_min(0), config.pooling)
        upper = pool(torch.maximum(above, -below), config.pooling)
    else:
        low, high = (normalise(m, normal.mean, normal.spread, config.normalisation) for m in (low, high))
        # Pooling is monotone in every cell.
        lower, upper = pool(low, config.pooling), pool(high, config.pooling)
        if distance > 0:
            # No perturbation moves all cells at once by as much as each alone; take the tighter of both bounds.
            joint = TopKMeanBound(norms, normal, config, maps)
            lower = torch.maximum(lower, joint.lower(maps / mean_high, distance / mean_high.sqrt()))
            upper = torch.minimum(upper, joint.upper(maps / mean_low, distance / mean_low.sqrt(), low, high))
    # Step 4: standardise, which is monotone.
    return (lower - normal.location) / normal.scale, (upper - normal.location) / normal.scale


class TopKMeanBound:
    """Bounds on the mean of a map's k largest cells that account for their shared pixels.

    The pooled score is ``max over sets K of k cells of mean_K (w E - o)``. For every K, ``sqrt(mean_K w E)`` changes by
    at most a norm ``C_K`` times the distance. The proofs are in docs/certificates.md, section "Several cells at once".

    Args:
        norms: Operator norms of the map.
        normal: Statistics of the map over normal images.
        config: Normalisation and pooling of the score; the normalisation is not ``mean``.
        maps: Example of the error maps, (b, 1, h, w).
    """

    def __init__(self, norms: MapNorms, normal: MapStatistics, config: ScoreConfig, maps: Tensor) -> None:
        spread = torch.ones_like(maps[:1]) if config.normalisation == "none" else normal.spread
        self.weights = 1 / spread
        self.offsets = torch.zeros_like(spread) if config.normalisation == "none" else normal.mean / spread
        self.k = pooled_count(maps[0].numel(), config.pooling)
        self.norms = norms

    def _largest(self, values: Tensor) -> Tensor:
        """Mask of the k largest cells, (b, 1, h, w)."""
        flat = values.flatten(1)
        indices = flat.topk(self.k, dim=1).indices
        return torch.zeros_like(flat).scatter_(1, indices, 1.0).view_as(values)

    def _mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean over the k cells of a mask, (b,)."""
        return (values * mask).flatten(1).sum(1) / self.k

    def _norm(self, mask: Tensor) -> Tensor:
        """Upper bound of ``C_K`` for every set K of k cells within a mask, (b,)."""
        return self.norms.sum_norm(self.weights * mask / self.k)

    def lower(self, maps: Tensor, distance: Tensor) -> Tensor:
        """Bound the pooled score from below, with the cells that are the largest before the perturbation.

        Args:
            maps: Error maps, (b, 1, h, w).
            distance: Largest l2 change of the image, (b, 1, 1, 1).

        Returns:
            Lower bounds, (b,).
        """
        weighted = self.weights * maps
        mask = self._largest(weighted - self.offsets)
        root = self._mean(weighted, mask).clamp_min(0).sqrt()
        moved = (root - self._norm(mask) * distance.flatten()).clamp_min(0).square()
        return moved - self._mean(self.offsets.expand_as(mask), mask)

    def upper(self, maps: Tensor, distance: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Bound the pooled score from above, over all sets of k cells that may become the largest.

        Args:
            maps: Error maps, (b, 1, h, w).
            distance: Largest l2 change of the image, (b, 1, 1, 1).
            low: Lower end of each cell's interval after normalisation, (b, 1, h, w).
            high: Upper end of each cell's interval after normalisation, (b, 1, h, w).

        Returns:
            Upper bounds, (b,).
        """
        # A cell can be among the k largest only if it can reach the k-th largest lower end.
        bar = low.flatten(1).topk(self.k, dim=1).values[:, -1]
        possible = (high >= bar[:, None, None, None]).to(maps)
        c = self._norm(possible) * distance.flatten()
        weighted = self.weights * maps
        mask = self._largest(weighted - self.offsets)
        # (sqrt(a) + c)^2 <= a (1 + c / t) + c t + c^2 for every t > 0. This is linear in the map, so its maximum over K
        # is again reached by the k largest cells. t = sqrt(a) is tight; the floor c / 8 keeps c / t bounded.
        t = torch.maximum(self._mean(weighted, mask).clamp_min(0).sqrt(), c / 8).clamp_min(EPS)
        linear = weighted * (1 + c / t)[:, None, None, None] - self.offsets
        return linear.flatten(1).topk(self.k, dim=1).values.mean(1) + c * t + c.square()


class TwoPath:
    """Samples bounds on AdvRAD's score, smoothed by the detector's own noise; each view is a part of the score.

    Guarantee: the theorem of :mod:`advrad.certificates.two_path`.

    Args:
        detector: Trained detector; put in evaluation mode.
        batch_size: Samples that pass the network in one batch; None for a value that suits the device.

    Example:
        >>> # Skipped, because it needs a trained model.
        >>> detector = AdvRAD.from_pretrained("bottle")  # doctest: +SKIP
        >>> TwoPath(detector).shifts(256, 256)  # doctest: +SKIP
        (2.5,)
    """

    method = "two-path"
    sigma = None
    noise_hint = "a detector that uses stronger noise (train or calibrate it with optimise_for_radius)"

    def __init__(self, detector: AdvRAD, batch_size: int | None = None) -> None:
        self.detector = detector.eval()
        self.batch_size = batch_size or batch_size_on(detector.device)
        self.config = detector.detector_config.score
        self.quantile: float = self.config.quantile

    def _resize_norms(self, height_px: int, width_px: int) -> list[float]:
        """Largest l2 change of each view for a perturbation of length 1, (parts,)."""
        framing = self.detector.framing
        return [framed_norm(height_px, width_px, framing, view.view_px) for view in self.config.views]

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """See :class:`advrad.certificates.smoothing.Sampler`."""
        norms = self._resize_norms(height_px, width_px)
        return tuple(norm / view.sigma for norm, view in zip(norms, self.config.views, strict=True))

    def sample(
        self, image: Tensor, radii: Sequence[float], n: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """See :class:`advrad.certificates.smoothing.Sampler`."""
        given = self.detector.framing.apply(image[None].to(self.detector.device))
        lower = np.empty((len(self.config.views), len(radii), n))
        upper = np.empty_like(lower)
        norms = self._resize_norms(*image.shape[1:])
        for part, (view, norm) in enumerate(zip(self.config.views, norms, strict=True)):
            resized = resize(given, view.view_px)
            for start in range(0, n, self.batch_size):
                batch = slice(start, min(start + self.batch_size, n))
                maps = self._error_maps(resized.expand(batch.stop - start, -1, -1, -1), view, generator)
                for row, radius in enumerate(radii):
                    bounds = [self._bounds(m, view, index, radius * norm) for index, m in enumerate(maps)]
                    for side, values in zip((lower, upper), zip(*bounds, strict=True), strict=True):
                        side[part, row, batch] = torch.stack(values).mean(0).double().cpu().numpy()
        return lower, upper

    def _error_maps(self, images: Tensor, view: NoiseView, generator: torch.Generator) -> list[Tensor]:
        """Filtered error maps, (b, 1, h, w) each, of one noise sample per image."""
        config = self.config
        with torch.no_grad():
            # The network sees the noised image only, so the theorem covers any arithmetic. The comparison sees the
            # image itself, so it is computed in float32.
            with self.detector.autocast():
                recon = reconstruct(
                    self.detector.denoiser, images, view.sigma, generator, config.steps, independent=True
                )
            return [
                mean_filter(m, config.filter_px)
                for m in combine_scales(scale_errors(images, recon.float()), config.scales)
            ]

    def _bounds(self, maps: Tensor, view: NoiseView, index: int, distance: float) -> tuple[Tensor, Tensor]:
        """Bounds on the score of one error map, (b,) each."""
        norms = map_norms(view, self.config)[index]
        return score_bounds(maps, norms, self.detector.statistics(view, index), self.config, distance)


def two_path_sampler(detector: AnomalyDetector) -> TwoPath | None:
    """Make the two-path sampler of a detector.

    Args:
        detector: Any detector.

    Returns:
        The sampler; None if the detector's score does not have the form that the theorem needs.
    """
    return TwoPath(detector.reconstruction_model) if isinstance(detector, SupportsTwoPath) else None
