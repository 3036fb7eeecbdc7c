"""A plain convolutional autoencoder, scored by its reconstruction error: the undefended control.

The robust autoencoders (:mod:`advrad.baselines.apae`, :mod:`advrad.baselines.pls`, :mod:`advrad.baselines.rae`) use the
same network and score; they differ in the training or in what they do to the latent.

Source: Bergmann et al. 2019, "Improving Unsupervised Defect Segmentation by Applying Structural Similarity to
Autoencoders", with the squared error.

Difference from the paper: the network is a smaller one, smooth throughout so that gradients of any order exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext, build_seeded, freeze, resize_clamped, train_network
from advrad.data.transforms import resize
from advrad.detectors.scoring import pool
from advrad.utils.config import Config


class AutoencoderOptions(Config):
    """Options of an autoencoder.

    Attributes:
        work_px: Side at which the network works, in pixels.
        channels: Width of each level; each level halves the resolution, beginning with half of ``work_px``.
        latent_channels: Number of channels of the latent, which has the resolution of the last level.
        pooling: Share of the largest values of the error map that is averaged into the score. The papers average the
            whole map (1), because there a whole image is novel; a defect covers a small part.
        steps: Number of training steps.
        batch_size: Number of images per step.
        learning_rate: Initial learning rate.
    """

    work_px: int = Field(64, ge=16)
    channels: tuple[PositiveInt, ...] = Field((32, 64, 128, 128), min_length=1, max_length=5)
    latent_channels: int = Field(16, ge=1)
    pooling: float = Field(0.01, ge=0, le=1)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.work_px % 2 ** len(self.channels):
            raise ValueError(f"work_px must be a multiple of {2 ** len(self.channels)}: each level halves it")
        return self

    @property
    def latent_px(self) -> int:
        """Side of the latent."""
        return int(self.work_px // 2 ** len(self.channels))


class Autoencoder(BaselineDetector):
    """An autoencoder, which scores the squared difference between an image and its reconstruction.

    Args:
        size_px: Side of the images in pixels.
        options: Options of the system.
    """

    def __init__(self, size_px: int, options: AutoencoderOptions) -> None:
        super().__init__(size_px)
        self.options = options
        widths, latent = options.channels, options.latent_channels
        down = [
            nn.Sequential(nn.Conv2d(i, o, 4, stride=2, padding=1), nn.SiLU())
            for i, o in itertools.pairwise((3, *widths))
        ]
        up = [
            nn.Sequential(nn.SiLU(), nn.ConvTranspose2d(i, o, 4, stride=2, padding=1))
            for i, o in itertools.pairwise((*reversed(widths), 3))
        ]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent, 1))
        self.decoder = nn.Sequential(nn.Conv2d(latent, widths[-1], 3, padding=1), *up)

    def encode(self, view: Tensor) -> Tensor:
        """Encode images (b, 3, work_px, work_px) in [0, 1] into latents (b, latent_channels, latent_px, latent_px)."""
        latent: Tensor = self.encoder(2 * view - 1)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents into images (b, 3, work_px, work_px), not clamped."""
        signed: Tensor = self.decoder(latent)
        return (signed + 1) / 2

    def reconstruct(self, view: Tensor) -> Tensor:
        """Encode and decode images; shapes as in :meth:`encode`."""
        return self.decode(self.encode(view))

    def errors(self, view: Tensor) -> Tensor:
        """Squared reconstruction error of each channel and pixel, (b, 3, work_px, work_px)."""
        return (view - self.reconstruct(view)).square()

    def losses(self, view: Tensor) -> Tensor:
        """Mean squared error of each image, (b,)."""
        return self.errors(view).mean((1, 2, 3))

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; :meth:`errors`, averaged over channels."""
        return resize(self.errors(resize(images, self.options.work_px)).mean(1, keepdim=True), images.shape[-1])

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Average the largest values of each map, (b,)."""
        return pool(maps, self.options.pooling)


def fit_autoencoder(context: FitContext, options: AutoencoderOptions) -> Autoencoder:
    """Train an autoencoder on normal images."""
    system = build_seeded(context, "autoencoder", lambda: Autoencoder(context.size_px, options))
    train_autoencoder(system, context, lambda view, _: system.losses(view).mean())
    return freeze(system)


def train_autoencoder(
    system: Autoencoder, context: FitContext, loss: Callable[[Tensor, torch.Generator], Tensor]
) -> None:
    """Train an autoencoder in place.

    Args:
        system: Autoencoder to train.
        context: Training images.
        loss: Loss of a batch: images (b, 3, work_px, work_px) in [0, 1] and the random generator of the step -> a
            scalar. An attack during training acts at this size. Resizing to it averages pixels, so the effect of any
            ``linf`` attack on the full image stays within the same radius here.
    """
    options = system.options
    train_network(
        lambda images, generator: loss(resize_clamped(images, options.work_px), generator),
        system.parameters(),
        context,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
