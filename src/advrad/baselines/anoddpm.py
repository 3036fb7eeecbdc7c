"""AnoDDPM: noise an image part of the way, walk back, and call anomalous what came back changed.

Source: Wyatt, Leach, Schmon, Willcocks 2022, "AnoDDPM: Anomaly detection with denoising diffusion probabilistic models
using simplex noise" (CVPR workshops). The one-shot form is the baseline of that name in the AdvRAD paper.

What differs from the paper and the code released with it: a lean network with a stem and coordinates in place of a
large U-Net with attention; simplex noise is scaled to the variance of Gaussian noise, so that the schedule means the
same for both; steps are drawn only up to the one from which a walk starts, because it visits no others; the fresh noise
of a walk is of the kind that the network was trained on, where the released code draws Gaussian noise; and nothing is
clamped on the way, which would cut gradients.
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

from advrad.baselines.base import BaselineDetector, FitContext, descend
from advrad.baselines.simplex import cut, simplex_noise
from advrad.data.transforms import resize
from advrad.denoisers.ddpm import Schedule
from advrad.denoisers.lean import positions
from advrad.denoisers.sampling import GradientPath, draw_noise
from advrad.denoisers.unet import LeanUNet
from advrad.detectors.base import SurrogateLoss
from advrad.detectors.scoring import pool
from advrad.utils.config import Config

#: Standard deviation that an image in [-1, 1] is taken to have before training.
_DATA_STD = 0.5
#: A source of noise for training: of images (b, c, h, h) and a generator -> their shape, each row its own.
Draw = Callable[[Tensor, torch.Generator], Tensor]
#: Side of the plane from which the simplex noise of a training is cut, in sides of the working image.
_CANVAS = 12


class AnoDDPMOptions(Config):
    """How AnoDDPM is built, trained and used.

    Attributes:
        noise: ``gaussian``, or ``simplex`` as the paper proposes. Training and walk use the same.
        start_step: how far the image is noised, of the linear schedule's 1000 steps; the paper's 250.
        walk_steps: calls of the network on the way back, evenly strided. ``start_step`` of them is the paper's full
            reverse walk; 1 reads the clean image off one prediction, the one-shot AnoDDPM.
        work_px: side at which the network works; the paper's 256.
        octaves: of simplex noise.
        persistence: amplitude of each octave of simplex noise, relative to the coarser one.
        period_px: of the coarsest octave at 256 px; at ``work_px`` it is the same share of the image.
        pooling: share of the error map's largest values that is averaged into the score; 0 is the maximum. The paper
            judges pixels, not images, so this is ours.
        channels: width of each level of the network.
        blocks: residual blocks per level.
        steps: of training; the paper trains for 3000 epochs.
        batch_size: images in each step; the paper's 1.
        learning_rate: at the beginning; the paper's is 1e-4.
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
            raise ValueError("walk_steps exceeds start_step; a walk visits every step at most once")
        if len(self.blocks) != len(self.channels):
            raise ValueError("blocks and channels must be of one length")
        return self

    def walk(self, count: int) -> list[int]:
        """The steps of a walk with ``count`` calls, from ``start_step`` down to 0, which is the image."""
        return [round(self.start_step * (count - i) / count) for i in range(count + 1)]


def step_back(z: Tensor, recon: Tensor, now: float, after: float, noise: Tensor) -> Tensor:
    """A draw from the DDPM posterior of an image at a lower noise level, given the clean image.

    Args:
        z: (b, c, h, w), the clean image plus ``now`` times noise.
        recon: (b, c, h, w), the clean image or an estimate of it.
        now: noise level of ``z``.
        after: the lower level, >= 0.
        noise: broadcasts to ``z``, of variance 1.

    Returns:
        (b, c, h, w). Source: Ho, Jain, Abbeel 2020, equation 7, for ``z = x_k / sqrt(abar_k)``.
    """
    kept = (after / now) ** 2
    return recon + kept * (z - recon) + after * math.sqrt(1 - kept) * noise


class AnoDDPM(BaselineDetector):
    """Judges by the squared difference between an image and what its walk leads back to.

    Arithmetic is in noise-level form: ``z = x + sigma noise`` is the papers' ``x_k`` divided by ``sqrt(abar_k)``.

    Args:
        size_px: side of the images.
        options: of the system.
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
        # Entry k is the level of step k, [0, 1] pixel units; entry 0 is the image itself.
        self.sigmas: list[float] = [0.0, *Schedule().sigmas().tolist()]

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Of a walk of many steps: the one-shot score, and the true score with gradients that skip the walk."""
        if self.options.walk_steps == 1:
            return {}
        return {
            "one shot": partial(self._climb, 1, "exact"),
            "straight through": partial(self._climb, self.options.walk_steps, "straight"),
        }

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of the kind that the system is trained with, (1, c, h, w) for (b, c, h, w); rows share it."""
        if self.options.noise == "gaussian":
            return draw_noise(images, generator)
        return self.simplex((1, *images.shape[1:]), generator).to(images)

    def predict(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The noise in a noised image.

        The untrained network answers with the best linear guess; what is trained is the departure from it.

        Args:
            z: (b, 3, h, w), an image in [0, 1] plus ``sigma`` times noise.
            sigma: (b,), [0, 1] pixel units, > 0.

        Returns:
            (b, 3, h, w), the estimate of the noise, of about unit variance.
        """
        level = 2 * sigma[:, None, None, None]  # the network's world is [-1, 1]
        total = level.square() + _DATA_STD**2
        unit = (2 * z - 1) * total.rsqrt()
        scalars = (torch.log(2 * sigma) / 2)[:, None]
        window = z.new_tensor([-1.0, -1.0, 1.0, 1.0]).expand(len(z), 4)
        place = positions(window, z.shape[2] // self.network.stem_px, z.shape[3] // self.network.stem_px)
        departure: Tensor = self.network(unit, scalars, place)
        return level * total.rsqrt() * unit + _DATA_STD * total.rsqrt() * departure

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """The image behind the noise, by the predicted noise; shapes and units as in :meth:`predict`."""
        return z - sigma * self.predict(z, z.new_full((len(z),), sigma))

    def loss(self, view: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """The simple DDPM loss: mean squared error of the predicted noise at random steps.

        Args:
            view: (b, 3, work_px, work_px) in [0, 1].
            noise: same shape.
            generator: source of the steps.
        """
        steps = torch.randint(1, self.options.start_step + 1, (len(view),), generator=generator)
        sigma = view.new_tensor([self.sigmas[step] for step in steps.tolist()])
        return (self.predict(view + sigma[:, None, None, None] * noise, sigma) - noise).square().mean()

    def reconstruct(
        self, view: Tensor, generator: torch.Generator, walk_steps: int, path: GradientPath = "exact"
    ) -> Tensor:
        """Noise images up to ``start_step`` and walk back.

        Args:
            view: (b, 3, work_px, work_px) in [0, 1].
            generator: source of all noise; rows share each draw.
            walk_steps: calls of the network.
            path: of the gradients, as in :func:`advrad.denoisers.sampling.reconstruct`.

        Returns:
            (b, 3, work_px, work_px), unclamped. Differentiable in ``view``.
        """
        levels = [self.sigmas[step] for step in self.options.walk(walk_steps)]

        def denoise(z: Tensor, sigma: float) -> Tensor:
            if walk_steps == 1 or not torch.is_grad_enabled():
                return self.denoise(z, sigma)
            # One step's activations at a time: a long walk's would not fit into memory.
            recon: Tensor = checkpoint(self.denoise, z, sigma, use_reentrant=False)
            return recon

        z = view + levels[0] * self.draw(view, generator)
        recon = first = denoise(z, levels[0])
        with torch.set_grad_enabled(torch.is_grad_enabled() and path == "exact"):
            for now, after in itertools.pairwise(levels[:-1]):
                z = step_back(z, recon, now, after, self.draw(view, generator))
                recon = denoise(z, after)
        return recon if path == "exact" else first + (recon - first).detach()

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; mean over channels of the squared difference, [0, 1] units."""
        return self._maps(images, generator, self.options.walk_steps, "exact")

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Mean of the largest values of each map, (b,)."""
        return pool(maps, self.options.pooling)

    def _maps(self, images: Tensor, generator: torch.Generator, walk_steps: int, path: GradientPath) -> Tensor:
        view = resize(images, self.options.work_px)
        error = (view - self.reconstruct(view, generator, walk_steps, path)).square().mean(1, keepdim=True)
        return resize(error, images.shape[-1])

    def _climb(self, walk_steps: int, path: GradientPath, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.scores(images, self._maps(images, generator, walk_steps, path))


def fit_anoddpm(lesson: FitContext, options: AnoDDPMOptions) -> AnoDDPM:
    """Train on normal images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.generator("anoddpm weights").initial_seed())
        system = AnoDDPM(lesson.size_px, options)
    draw: Draw = partial(draw_noise, independent=True)
    if options.noise == "simplex":
        side = _CANVAS * options.work_px
        draw = partial(cut, system.simplex((1, 1, side, side), lesson.generator("anoddpm noise"))[0, 0])

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        view = resize(images, options.work_px)
        return system.loss(view, draw(view, generator), generator)

    descend(
        loss,
        system.parameters(),
        lesson,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return system.eval().requires_grad_(False)
