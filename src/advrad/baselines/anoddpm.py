"""AnoDDPM: noise an image part of the way, reverse the diffusion, and score the difference.

Source: Wyatt, Leach, Schmon, Willcocks 2022, "AnoDDPM: Anomaly detection with denoising diffusion probabilistic models
using simplex noise" (CVPR workshops). The one-step form is the baseline of that name in the AdvRAD paper.

Differences from the paper and its released code: a lean network with a stem and coordinates replaces a large U-Net with
attention. Simplex noise is scaled to the variance of Gaussian noise, so that the schedule means the same for both.
Training draws steps only up to ``start_step``, since the reverse process visits no others. The noise added during the
reverse process is of the kind that the network was trained on; the released code adds Gaussian noise. Nothing is
clamped, since clamping stops gradients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advrad.baselines.base import BaselineDetector, FitContext, build_seeded, freeze, train_network
from advrad.baselines.simplex import random_crops, simplex_noise
from advrad.data.transforms import resize
from advrad.denoisers.ddpm import Schedule
from advrad.denoisers.lean import positions
from advrad.denoisers.sampling import GradientPath, draw_noise
from advrad.denoisers.unet import LeanUNet
from advrad.detectors.base import SurrogateLoss
from advrad.detectors.scoring import pool
from advrad.utils.config import Config

#: Assumed standard deviation of an image in [-1, 1], for the initial linear estimate.
_DATA_STD = 0.5
#: Draws training noise: (images (b, c, h, h), generator) -> noise of the same shape, independent for each image.
NoiseSource = Callable[[Tensor, torch.Generator], Tensor]
#: Side of the plane from which the simplex noise of the training is cut, as a multiple of ``work_px``.
_CANVAS = 12


class AnoDDPMOptions(Config):
    """Options of AnoDDPM.

    Attributes:
        noise: ``gaussian``, or ``simplex`` as the paper proposes, for training and for the reverse process.
        start_step: Step up to which the image is noised, of the linear schedule's 1000; 250 in the paper.
        walk_steps: Number of network calls of the reverse process, evenly spaced. ``start_step`` of them is the full
            process of the paper; 1 reads the clean image off one prediction (one-step AnoDDPM).
        work_px: Side at which the network works, in pixels; 256 in the paper.
        octaves: Number of octaves of the simplex noise.
        persistence: Amplitude of each octave of the simplex noise, relative to the next coarser one.
        period_px: Period of the coarsest octave at 256 px; at ``work_px`` it is the same share of the image.
        pooling: Share of the largest values of the error map that is averaged into the score; 0 is the maximum. The
            paper scores pixels only, so this is our choice.
        channels: Width of each level of the network.
        blocks: Number of residual blocks per level.
        steps: Number of training steps; the paper trains for 3000 epochs.
        batch_size: Number of images per step; 1 in the paper.
        learning_rate: Initial learning rate; 1e-4 in the paper.
    """

    noise: Literal["gaussian", "simplex"] = "simplex"
    start_step: int = Field(250, ge=1, le=1000)
    walk_steps: int = Field(10, ge=1, le=1000)
    work_px: int = Field(128, ge=16, multiple_of=16)
    octaves: int = Field(6, ge=1, le=16)
    persistence: float = Field(0.8, gt=0, le=1)
    period_px: float = Field(64.0, gt=0)
    pooling: float = Field(0.01, ge=0, le=1)
    channels: tuple[PositiveInt, ...] = Field((24, 48, 96, 128), min_length=1, max_length=4)
    blocks: tuple[PositiveInt, ...] = (1, 1, 2, 2)
    steps: int = Field(500, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.walk_steps > self.start_step:
            raise ValueError("walk_steps must be at most start_step")
        if len(self.blocks) != len(self.channels):
            raise ValueError("blocks and channels must have the same length")
        return self

    def walk(self, count: int) -> list[int]:
        """Steps of a reverse process with ``count`` network calls, from ``start_step`` down to 0, the image."""
        return [round(self.start_step * (count - i) / count) for i in range(count + 1)]


def step_back(z: Tensor, recon: Tensor, now: float, after: float, noise: Tensor) -> Tensor:
    """Draw from the DDPM posterior at a lower noise level, given the clean image.

    Args:
        z: Clean image plus ``now`` times noise, (b, c, h, w).
        recon: Clean image or an estimate of it, (b, c, h, w).
        now: Noise level of ``z``.
        after: Lower noise level, >= 0.
        noise: Noise of variance 1 that broadcasts to ``z``.

    Returns:
        Noisy image at the lower level, (b, c, h, w).

    Source: Ho, Jain, Abbeel 2020, equation 7, for ``z = x_k / sqrt(abar_k)``.
    """
    kept = (after / now) ** 2
    return recon + kept * (z - recon) + after * math.sqrt(1 - kept) * noise


class AnoDDPM(BaselineDetector):
    """AnoDDPM, which scores the squared difference between an image and its reconstruction.

    Noise levels replace steps in the formulas: ``z = x + sigma noise`` is the papers' ``x_k`` divided by
    ``sqrt(abar_k)``.

    Args:
        size_px: Side of the images in pixels.
        options: Options of the system.
    """

    deterministic = False

    def __init__(self, size_px: int, options: AnoDDPMOptions) -> None:
        super().__init__(size_px)
        self.options = options
        self.network = LeanUNet(3, 3, options.channels, options.blocks, stem_px=2, scalars=1)
        self.simplex = partial(
            simplex_noise,
            octaves=options.octaves,
            persistence=options.persistence,
            period_px=options.period_px * options.work_px / 256,
        )
        # Entry k is the noise level of step k in [0, 1] pixel units; entry 0 is the image itself.
        self.sigmas: list[float] = [0.0, *Schedule().sigmas().tolist()]

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """The one-step score, and the score with gradients that skip the reverse process; none for a single step."""
        if self.options.walk_steps == 1:
            return {}
        return {
            "one shot": SurrogateLoss(partial(self._surrogate_score, 1, "exact"), "one_step"),
            "straight through": SurrogateLoss(
                partial(self._surrogate_score, self.options.walk_steps, "straight"), "bpda"
            ),
        }

    def sample_noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw noise of the kind that the system was trained with.

        Args:
            images: Images, (b, c, h, w), for the shape, type and device.
            generator: Source of the noise.

        Returns:
            Noise, (1, c, h, w), which the images of the batch share.
        """
        if self.options.noise == "gaussian":
            return draw_noise(images, generator)
        return self.simplex((1, *images.shape[1:]), generator).to(images)

    def predict(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Predict the noise in a noisy image.

        The untrained network returns the best linear estimate; training learns the difference from it.

        Args:
            z: Images in [0, 1] plus ``sigma`` times noise, (b, 3, h, w).
            sigma: Noise levels in [0, 1] pixel units, (b,), above 0.

        Returns:
            Estimate of the noise, (b, 3, h, w), of about unit variance.
        """
        level = 2 * sigma[:, None, None, None]  # the network works on images in [-1, 1]
        total = level.square() + _DATA_STD**2
        unit = (2 * z - 1) * total.rsqrt()
        scalars = (torch.log(2 * sigma) / 2)[:, None]
        window = z.new_tensor([-1.0, -1.0, 1.0, 1.0]).expand(len(z), 4)
        place = positions(window, z.shape[2] // self.network.stem_px, z.shape[3] // self.network.stem_px)
        departure: Tensor = self.network(unit, scalars, place)
        return level * total.rsqrt() * unit + _DATA_STD * total.rsqrt() * departure

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """Estimate the clean image from the predicted noise; shapes and units as in :meth:`predict`."""
        return z - sigma * self.predict(z, z.new_full((len(z),), sigma))

    def loss(self, view: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the simple DDPM loss: the mean squared error of the predicted noise at random steps.

        Args:
            view: Images at the working size, (b, 3, work_px, work_px), float in [0, 1].
            noise: Noise of the same shape.
            generator: Source of the steps.
        """
        steps = torch.randint(1, self.options.start_step + 1, (len(view),), generator=generator)
        sigma = view.new_tensor([self.sigmas[step] for step in steps.tolist()])
        return (self.predict(view + sigma[:, None, None, None] * noise, sigma) - noise).square().mean()

    def reconstruct(
        self, view: Tensor, generator: torch.Generator, walk_steps: int, path: GradientPath = "exact"
    ) -> Tensor:
        """Noise images up to ``start_step`` and run the reverse process.

        Args:
            view: Images at the working size, (b, 3, work_px, work_px), float in [0, 1].
            generator: Source of all noise; the images of the batch share each draw.
            walk_steps: Number of network calls.
            path: Path of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

        Returns:
            Reconstructions, (b, 3, work_px, work_px), not clamped. Differentiable in ``view``.
        """
        levels = [self.sigmas[step] for step in self.options.walk(walk_steps)]

        def denoise(z: Tensor, sigma: float) -> Tensor:
            if walk_steps == 1 or not torch.is_grad_enabled():
                return self.denoise(z, sigma)
            # Keep the activations of one step at a time: those of a long process do not fit into memory.
            recon: Tensor = checkpoint(self.denoise, z, sigma, use_reentrant=False)
            return recon

        z = view + levels[0] * self.sample_noise(view, generator)
        recon = first = denoise(z, levels[0])
        with torch.set_grad_enabled(torch.is_grad_enabled() and path == "exact"):
            for now, after in itertools.pairwise(levels[:-1]):
                z = step_back(z, recon, now, after, self.sample_noise(view, generator))
                recon = denoise(z, after)
        return recon if path == "exact" else first + (recon - first).detach()

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; the squared difference, averaged over channels."""
        return self._maps(images, generator, self.options.walk_steps, "exact")

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Average the largest values of each map, (b,)."""
        return pool(maps, self.options.pooling)

    def _maps(self, images: Tensor, generator: torch.Generator, walk_steps: int, path: GradientPath) -> Tensor:
        view = resize(images, self.options.work_px)
        error = (view - self.reconstruct(view, generator, walk_steps, path)).square().mean(1, keepdim=True)
        return resize(error, images.shape[-1])

    def _surrogate_score(
        self, walk_steps: int, path: GradientPath, images: Tensor, generator: torch.Generator
    ) -> Tensor:
        return self.scores(images, self._maps(images, generator, walk_steps, path))


def fit_anoddpm(context: FitContext, options: AnoDDPMOptions) -> AnoDDPM:
    """Train the network on normal images."""
    system = build_seeded(context, "anoddpm", lambda: AnoDDPM(context.size_px, options))
    draw: NoiseSource = partial(draw_noise, independent=True)
    if options.noise == "simplex":
        side = _CANVAS * options.work_px
        draw = partial(random_crops, system.simplex((1, 1, side, side), context.generator("anoddpm noise"))[0, 0])

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        view = resize(images, options.work_px)
        return system.loss(view, draw(view, generator), generator)

    train_network(
        loss,
        system.parameters(),
        context,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return freeze(system)
