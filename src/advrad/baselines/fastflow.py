"""FastFlow: the likelihood of features under a normalising flow that keeps their positions.

Source: Yu et al. 2021, "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows".

Difference from the paper: the network is EfficientNet-lite0, and the map shows half the mean squared latent in place of
its exponential (see :class:`FastFlow`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, freeze
from advrad.baselines.features import upsample

#: Bound on the logarithm of the scale of a coupling.
_BOUND = 2.0


class Coupling(nn.Module):
    """One flow step: permute the channels, then scale and shift one half as a small network says.

    The small network sees the other half. At initialisation the step is the permutation alone.

    Args:
        channels: Number of channels of the features, at least 2.
        kernel_px: Kernel size of the small network's convolutions, 3 or 1.
        generator: Source of the permutation and the initial weights.
        hidden_ratio: Hidden channels of the small network, as a share of its input channels.
    """

    order: Tensor

    def __init__(self, channels: int, kernel_px: int, generator: torch.Generator, hidden_ratio: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(channels, generator=generator))
        self.kept = channels - channels // 2
        hidden = max(1, int(hidden_ratio * self.kept))
        self.first = nn.Conv2d(self.kept, hidden, kernel_px, padding=kernel_px // 2)
        self.last = nn.Conv2d(hidden, 2 * (channels // 2), kernel_px, padding=kernel_px // 2)
        with torch.no_grad():
            limit = (self.kept * kernel_px**2) ** -0.5
            for parameter in self.first.parameters():
                parameter.uniform_(-limit, limit, generator=generator)
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, h, w) -> the same shape, and the logarithm of the Jacobian's determinant (b,)."""
        shuffled = features[:, self.order]
        seen, moved = shuffled[:, : self.kept], shuffled[:, self.kept :]
        scale, shift = self.last(torch.relu(self.first(seen))).chunk(2, dim=1)
        scale = _BOUND * 2 / math.pi * torch.atan(scale)
        return torch.cat([seen, moved * scale.exp() + shift], dim=1), scale.sum((1, 2, 3))


class Flow(nn.ModuleList):
    """A normalising flow: its couplings, one after the other."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Transform features (b, c, h, w) into latents of the same shape and log-determinants (b,)."""
        latent, volume = features, features.new_zeros(len(features))
        for coupling in self:
            latent, change = coupling(latent)
            volume = volume + change
        return latent, volume


class FastFlow(BaselineDetector):
    """FastFlow, which is trained on :meth:`losses`.

    Each feature map is normalised over its image (a layer norm with one gain per channel, so that any size fits) and
    has its own flow. The map is the mean over the flows of half the mean squared latent. The paper shows the
    likelihood, its exponential. The order within a flow is the same, but the exponential would underflow for anomalous
    images and leave an attacker without a gradient.

    Args:
        size_px: Side of the images in pixels.
        network: Feature network, see :mod:`advrad.baselines.features`; frozen.
        generator: Source of the initial weights.
        flow_steps: Number of couplings of each flow, with kernel sizes 3 and 1 alternating.
    """

    def __init__(self, size_px: int, network: nn.Module, generator: torch.Generator, flow_steps: int = 8) -> None:
        super().__init__(size_px)
        self.network = freeze(network)
        with torch.no_grad():
            channels = [part.shape[1] for part in network(torch.zeros(1, 3, size_px, size_px))]
        self.norms = nn.ModuleList(nn.GroupNorm(1, count) for count in channels)
        self.flows = nn.ModuleList(
            Flow(Coupling(count, 1 if step % 2 else 3, generator) for step in range(flow_steps)) for count in channels
        )

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters to train."""
        return [*self.norms.parameters(), *self.flows.parameters()]

    def losses(self, images: Tensor) -> Tensor:
        """Negative log-likelihood per feature, up to a constant: (b, 3, h, w) -> (b,), differentiable."""
        parts = [
            (0.5 * latent.square().sum((1, 2, 3)) - volume) / latent[0].numel()
            for latent, volume in self._latents(images)
        ]
        return torch.stack(parts).sum(0)

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; the maps have the size of the images."""
        parts = [0.5 * latent.square().mean(1, keepdim=True) for latent, _ in self._latents(images)]
        return torch.stack([upsample(part, images) for part in parts]).mean(0)

    def _latents(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Latent (b, c, h, w) and log-determinant (b,) of each feature map."""
        maps = zip(self.network(images), self.norms, self.flows, strict=True)
        return [flow(norm(features)) for features, norm, flow in maps]
