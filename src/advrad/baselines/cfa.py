"""CFA: features adapted to the product, drawn towards the centres of a memory of good ones.

Source: Lee, Lee and Song 2022, "CFA: Coupled-hypersphere-based Feature Adaptation for Target-Oriented Anomaly
Localization".
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector
from advrad.baselines.features import as_positions, blur, enlarged, frozen, joined, nearest

#: The paper's K, centres that attract a feature; its radius of their spheres; and the loss's scale.
_NEAR, _RADIUS, _WEIGHT = 3, 1e-5, 1000.0
#: Added to squared distances, so that their root has a gradient at a centre.
_TINY = 1e-12


class Cfa(BaselineDetector):
    """CFA; its descriptor is to be trained on :meth:`losses`.

    The centres are the mean feature of each position under the descriptor's first weights, and stay where they are.

    Args:
        size_px: of the images.
        network: see :mod:`advrad.baselines.features`; frozen.
        good: all normal images, in batches (b, 3, h, w) in [0, 1].
        generator: source of the first weights.
        smooth_px: standard deviation of the map's Gaussian filter.
    """

    centres: Tensor

    def __init__(
        self,
        size_px: int,
        network: nn.Module,
        good: Iterable[Tensor],
        generator: torch.Generator,
        smooth_px: float = 4.0,
    ) -> None:
        super().__init__(size_px)
        self.network, self.smooth_px = frozen(network), smooth_px
        with torch.no_grad():
            channels = sum(part.shape[1] for part in network(torch.zeros(1, 3, size_px, size_px)))
        self.descriptor = nn.Conv2d(channels + 2, channels, 1)
        with torch.no_grad():
            limit = (channels + 2) ** -0.5
            for parameter in self.descriptor.parameters():
                parameter.uniform_(-limit, limit, generator=generator)
            total, count = torch.zeros(()), 0
            for images in good:
                total = total + self._described(images).sum(0)
                count += len(images)
        self.register_buffer("centres", as_positions(total[None] / count)[0])

    def trained(self) -> list[nn.Parameter]:
        """What the training moves."""
        return list(self.descriptor.parameters())

    def losses(self, images: Tensor) -> Tensor:
        """How far features lie outside their centres' spheres: (b, 3, h, w) -> (b,), differentiable.

        The paper's loss has another term, max(0, r^2 - d^2 - alpha) for further centres. With its radius r = 1e-5 and
        margin alpha = 0.1 that is 0 for every d, so it is left out. (The authors' program lets the radius grow.)
        """
        squared, _ = self._distances(images)
        return _WEIGHT * F.relu(squared - _RADIUS**2).mean((1, 2))

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; distance to the nearest centre, weighed by how clearly it is the nearest."""
        squared, (height, width) = self._distances(images)
        distances = (squared + _TINY).sqrt()
        errors = F.softmin(distances, dim=2)[..., 0] * distances[..., 0]
        return blur(enlarged(errors.view(-1, 1, height, width), images), self.smooth_px)

    def _described(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, c, h', w'); the descriptor knows where it is (CoordConv)."""
        features = joined([F.avg_pool2d(part, 3, 1, 1) for part in self.network(images)])
        rows, columns = (
            torch.linspace(-1, 1, side, device=features.device, dtype=features.dtype) for side in features.shape[-2:]
        )
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].expand(len(features), -1, -1, -1)
        described: Tensor = self.descriptor(torch.cat([features, place], 1))
        return described

    def _distances(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """Squared distances of each position to its nearest centres, (b, h' w', K), and h', w'."""
        described = self._described(images)
        features = as_positions(described)
        distances, _ = nearest(features.flatten(0, 1), self.centres, _NEAR)
        return distances.view(*features.shape[:2], -1), described.shape[-2:]
