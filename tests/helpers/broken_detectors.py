"""Detectors to attack: one without faults, and some that each mislead attacks in one known way."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.attacks.evaluation import ImageSet
from advrad.detectors.callable_detector import CallableDetector
from advrad.detectors.wrappers import wrap

SIZE_PX = 16


class Autoencoder(nn.Module):
    """A small convolutional autoencoder. The map is its squared error, the score the mean of the largest 8 values."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.down = nn.Conv2d(3, 6, 4, stride=4)
            self.up = nn.ConvTranspose2d(6, 3, 4, stride=4)
        for layer in (self.down, self.up):
            layer.weight.data *= 3  # larger weights, so that the reconstruction follows the image

    def recon(self, images: Tensor) -> Tensor:
        return self.up(torch.tanh(self.down(images - 0.4)))

    def maps(self, images: Tensor, recon: Tensor) -> Tensor:
        return (images - recon).square().mean(1, keepdim=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(images, self.recon(images))
        return maps.flatten(1).topk(8, dim=1).values.mean(1), maps


class Detached(Autoencoder):
    """The reconstruction is computed without gradients; the score still has one, which is wrong."""

    def recon(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().recon(images) * 1.0


class Rounding(Autoencoder):
    """Works on 8-bit images, with a gradient passed straight through."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(images + ((images * 255).round() / 255 - images).detach())


class HardRounding(Autoencoder):
    """Works on 8-bit images; the rounding has a gradient of 0."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward((images * 255).round() / 255)


class Saturated(Autoencoder):
    """Maps a score that is large for every image to [0, 1] with a sigmoid, which saturates in float32."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, maps = super().forward(images)
        return torch.sigmoid(1e4 * (scores + 0.1)), maps


class Noisy(Autoencoder):
    """Adds noise from PyTorch's global generator."""

    std = 0.05

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(images + self.std * torch.randn(images.shape[1:]))


class Reseeding(Noisy):
    """Seeds the global generator inside the score."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return super().forward(images)


class HiddenReseeding(Autoencoder):
    """Seeds a generator of its own inside the score."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
        return super().forward(images + 0.05 * noise)


class Wild(Autoencoder):
    """Draws from a generator without a seed."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.from_numpy(np.random.default_rng().normal(size=images.shape[1:])).float()
        return super().forward(images + 0.05 * noise)


class VeryNoisy(Noisy):
    """So noisy that the gradient of one draw is unrelated to the mean gradient."""

    std = 3.0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.sin(40 * (images + self.std * torch.randn(images.shape[1:]))).mean(1, keepdim=True)
        return maps.mean((1, 2, 3)), maps


def honest(seed: int = 0) -> CallableDetector:
    """A detector without faults."""
    return wrap(Autoencoder(seed), size_px=SIZE_PX, deterministic=True, threshold=0.5)


def labelled_images(count: int = 8, seed: int = 0) -> ImageSet:
    """Normal and anomalous images in turn: smooth ones, and ones with a bright spot."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draws)
    images = 0.3 + 0.2 * F.interpolate(coarse, size=(SIZE_PX, SIZE_PX), mode="bilinear")
    labels = np.arange(count) % 2
    images[1::2, :, 4:8, 4:8] += 0.25
    return ImageSet(images.clamp(0, 1), labels.astype(np.int64), tuple(f"test/{i:03}.png" for i in range(count)))
