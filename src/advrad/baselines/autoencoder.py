"""A plain convolutional autoencoder: what it learned to compress it restores, and defects it should not.

The network and the judgement are also those of the robust autoencoders (:mod:`advrad.baselines.apae`,
:mod:`advrad.baselines.pls`, :mod:`advrad.baselines.rae`), which differ in how they learn or in what they do to the
latent. As it stands it is the undefended control.

Source: Bergmann et al. 2019, "Improving Unsupervised Defect Segmentation by Applying Structural Similarity to
Autoencoders", with the squared error. The network is a compact one of our own, smooth throughout, so that gradients of
any order exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Self, TypeVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext, descend
from advrad.data.transforms import resize
from advrad.detectors.scoring import pool
from advrad.utils.config import Config

_Network = TypeVar("_Network", bound=nn.Module)


class AutoencoderOptions(Config):
    """How an autoencoder is built, trained and used.

    Attributes:
        work_px: side at which the network works.
        channels: width of each level; a level has half the resolution of the one before, the first half of ``work_px``.
        latent_channels: of the latent, which has the resolution of the last level.
        pooling: share of the error map's largest values that is averaged into the score. The papers average the whole
            map, which is 1, because with them a whole image is novel; a defect is a small part of one.
        steps: of training.
        batch_size: images in each.
        learning_rate: at the beginning.
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
    """Judges by the squared difference between an image and its reconstruction.

    Args:
        size_px: side of the images.
        options: of the system.
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
        """(b, 3, work_px, work_px) in [0, 1] -> (b, latent_channels, latent_px, latent_px)."""
        latent: Tensor = self.encoder(2 * view - 1)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """A latent -> the image, (b, 3, work_px, work_px), unbounded."""
        signed: Tensor = self.decoder(latent)
        return (signed + 1) / 2

    def reconstruct(self, view: Tensor) -> Tensor:
        """What is left of an image after the bottleneck; shapes as in :meth:`encode`."""
        return self.decode(self.encode(view))

    def errors(self, view: Tensor) -> Tensor:
        """Squared difference of each channel of each pixel, (b, 3, work_px, work_px)."""
        return (view - self.reconstruct(view)).square()

    def losses(self, view: Tensor) -> Tensor:
        """Mean squared error of each image, (b,)."""
        return self.errors(view).mean((1, 2, 3))

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; mean over channels of :meth:`errors`."""
        return resize(self.errors(resize(images, self.options.work_px)).mean(1, keepdim=True), images.shape[-1])

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Mean of the largest values of each map, (b,)."""
        return pool(maps, self.options.pooling)


def fit_autoencoder(lesson: FitContext, options: AutoencoderOptions) -> Autoencoder:
    """Train on normal images."""
    system = begun(lesson, "autoencoder", lambda: Autoencoder(lesson.size_px, options))
    learn(system, lesson, lambda view, _: system.losses(view).mean())
    return finished(system)


def begun(lesson: FitContext, name: str, build: Callable[[], _Network]) -> _Network:
    """A network whose initial weights the lesson's seed and the name decide; the global source stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.generator(f"{name} weights").initial_seed())
        return build()


def finished(system: _Network) -> _Network:
    """The same system in evaluation mode, its parameters without gradients."""
    return system.eval().requires_grad_(False)


def learn(system: Autoencoder, lesson: FitContext, loss: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    """Train an autoencoder of any kind.

    Args:
        system: trained in place.
        lesson: normal images.
        loss: of images (b, 3, work_px, work_px) in [0, 1] and the step's noise -> a number. An attack while training
            acts at this size: shrinking averages, so what any ``linf`` attack on the image as given does is within
            the same radius here.
    """
    options = system.options
    descend(
        lambda images, generator: loss(shrunk(images, options.work_px), generator),
        system.parameters(),
        lesson,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )


def shrunk(images: Tensor, size_px: int) -> Tensor:
    """Training images at another size, in [0, 1] even where resizing rounds past it; without gradient."""
    return resize(images, size_px).clamp(0, 1).detach()
