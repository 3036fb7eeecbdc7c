"""CFA: features adapted to the product, pulled towards the centres of a memory of normal features.

Source: Lee, Lee and Song 2022, "CFA: Coupled-hypersphere-based Feature Adaptation for Target-Oriented Anomaly
Localization".

Difference from the paper: the network is EfficientNet-lite0, and a loss term that is always 0 is left out (see
:meth:`Cfa.losses`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, freeze
from advrad.baselines.features import gaussian_blur, upsample
from advrad.detectors.nearest import concatenate_maps, flatten_positions, nearest_neighbours

#: Number of centres that attract a feature (K in the paper), the radius of their spheres, and the scale of the loss.
_NEAR, _RADIUS, _WEIGHT = 3, 1e-5, 1000.0
#: Added to squared distances, so that their square root has a gradient at a centre.
_TINY = 1e-12


class Cfa(BaselineDetector):
    """CFA, whose descriptor is trained on :meth:`losses`.

    The centres are the mean features of each position under the initial weights of the descriptor; they do not move.

    Args:
        size_px: Side of the images in pixels.
        network: Feature network, see :mod:`advrad.baselines.features`; frozen.
        normal_images: All normal images, in batches (b, 3, h, w) in [0, 1].
        generator: Source of the initial weights.
        smooth_px: Standard deviation of the Gaussian filter over the map, in pixels.
    """

    centres: Tensor

    def __init__(
        self,
        size_px: int,
        network: nn.Module,
        normal_images: Iterable[Tensor],
        generator: torch.Generator,
        smooth_px: float = 4.0,
    ) -> None:
        super().__init__(size_px)
        self.network, self.smooth_px = freeze(network), smooth_px
        with torch.no_grad():
            channels = sum(part.shape[1] for part in network(torch.zeros(1, 3, size_px, size_px)))
        self.descriptor = nn.Conv2d(channels + 2, channels, 1)
        with torch.no_grad():
            limit = (channels + 2) ** -0.5
            for parameter in self.descriptor.parameters():
                parameter.uniform_(-limit, limit, generator=generator)
            total, count = torch.zeros(()), 0
            for images in normal_images:
                total = total + self._features(images).sum(0)
                count += len(images)
        self.register_buffer("centres", flatten_positions(total[None] / count)[0])

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters to train."""
        return list(self.descriptor.parameters())

    def losses(self, images: Tensor) -> Tensor:
        """Compute how far features lie outside the spheres of their centres: (b, 3, h, w) -> (b,), differentiable.

        The paper's loss has a second term, max(0, r^2 - d^2 - alpha), for further centres. With its radius r = 1e-5 and
        margin alpha = 0.1 that term is 0 for every d, so it is left out. (In the authors' code the radius grows.)
        """
        squared, _ = self._distances(images)
        return _WEIGHT * F.relu(squared - _RADIUS**2).mean((1, 2))

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; distance to the nearest centre times its softmin weight."""
        squared, (height, width) = self._distances(images)
        distances = (squared + _TINY).sqrt()
        errors = F.softmin(distances, dim=2)[..., 0] * distances[..., 0]
        return gaussian_blur(upsample(errors.view(-1, 1, height, width), images), self.smooth_px)

    def _features(self, images: Tensor) -> Tensor:
        """Adapted features, (b, 3, h, w) -> (b, c, h', w'); the descriptor also sees coordinates (CoordConv)."""
        features = concatenate_maps([F.avg_pool2d(part, 3, 1, 1) for part in self.network(images)])
        rows, columns = (
            torch.linspace(-1, 1, side, device=features.device, dtype=features.dtype) for side in features.shape[-2:]
        )
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].expand(len(features), -1, -1, -1)
        described: Tensor = self.descriptor(torch.cat([features, place], 1))
        return described

    def _distances(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """Squared distances of each position to its nearest centres, (b, h' w', K), and the size (h', w')."""
        described = self._features(images)
        features = flatten_positions(described)
        distances, _ = nearest_neighbours(features.flatten(0, 1), self.centres, _NEAR)
        return distances.view(*features.shape[:2], -1), described.shape[-2:]
