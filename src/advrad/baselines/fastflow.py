"""FastFlow: how likely features are under a normalising flow that keeps their places.

Source: Yu et al. 2021, "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector
from advrad.baselines.features import enlarged, frozen

#: Bound on the logarithm of a coupling's scale.
_BOUND = 2.0


class Coupling(nn.Module):
    """One step: shuffle the channels, then scale and shift one half by what a small network says of the other.

    It begins as the shuffle alone.

    Args:
        channels: of the features, at least 2.
        kernel_px: of the small network's convolutions, 3 or 1.
        generator: source of the shuffle and the first weights.
        hidden_ratio: the small network's channels, as a share of those that it sees.
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


class FastFlow(BaselineDetector):
    """FastFlow; to be trained on :meth:`losses`.

    Each feature map is normalised over its image (a layer norm whose gains belong to channels, so that any size fits)
    and has a flow of its own. The map is the mean over the flows of half the mean squared latent. The paper shows the
    likelihood, its exponential; the order within a flow is the same, but an exponential would run out of numbers where
    an image is odd, and leave an attacker without a gradient.

    Args:
        size_px: of the images.
        network: see :mod:`advrad.baselines.features`; frozen.
        generator: source of the first weights.
        flow_steps: couplings of each flow, kernels of 3 and 1 in turn.
    """

    def __init__(self, size_px: int, network: nn.Module, generator: torch.Generator, flow_steps: int = 8) -> None:
        super().__init__(size_px)
        self.network = frozen(network)
        with torch.no_grad():
            channels = [part.shape[1] for part in network(torch.zeros(1, 3, size_px, size_px))]
        self.norms = nn.ModuleList(nn.GroupNorm(1, count) for count in channels)
        self.flows = nn.ModuleList(
            nn.ModuleList(Coupling(count, 1 if step % 2 else 3, generator) for step in range(flow_steps))
            for count in channels
        )

    def trained(self) -> list[nn.Parameter]:
        """What the training moves."""
        return [*self.norms.parameters(), *self.flows.parameters()]

    def losses(self, images: Tensor) -> Tensor:
        """Negative log-likelihood per feature, up to a constant: (b, 3, h, w) -> (b,), differentiable."""
        parts = [
            (0.5 * latent.square().sum((1, 2, 3)) - volume) / latent[0].numel()
            for latent, volume in self._latents(images)
        ]
        return torch.stack(parts).sum(0)

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; (b, 1, h, w) at the size of the images."""
        parts = [0.5 * latent.square().mean(1, keepdim=True) for latent, _ in self._latents(images)]
        return torch.stack([enlarged(part, images) for part in parts]).mean(0)

    def _latents(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each feature map its latent (b, c, h, w) and the log-determinant (b,)."""
        latents = []
        for features, norm, flow in zip(self.network(images), self.norms, self.flows, strict=True):
            latent, volume = norm(features), features.new_zeros(len(features))
            assert isinstance(flow, nn.ModuleList)
            for coupling in flow:
                latent, change = coupling(latent)
                volume = volume + change
            latents.append((latent, volume))
        return latents
