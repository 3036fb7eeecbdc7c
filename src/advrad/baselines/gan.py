"""Shared parts of the reconstruction GANs: the discriminator, the training of both networks, and the score.

Generator and discriminator follow Akcay et al. 2019 (Skip-GANomaly), on which Liang et al. 2023 (OCR-GAN) build.

Differences from the papers: fewer channels and levels, and no tanh at the output, which would stop gradients at black
and white.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext, build_seeded, freeze
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.utils.config import Config


class GanOptions(Config):
    """Options of a reconstruction GAN.

    Attributes:
        work_px: Side at which the networks work, in pixels; 256 (OCR-GAN) and 32 (Skip-GANomaly) in the papers.
        channels: Width of each level; each level halves the resolution, beginning with half of ``work_px``.
        adversarial_weight: Weight of the adversarial loss.
        context_weight: Weight of the mean absolute difference between image and reconstruction.
        latent_weight: Weight of the mean squared difference between their discriminator features.
        score_weight: Share of the reconstruction error in the score; the rest is the difference of the features.
        negatives: Whether the discriminator also learns to tell normal images from images with a misplaced patch.
        steps: Number of training steps; the papers train for 15 (Skip-GANomaly) to 200 epochs.
        batch_size: Number of images per step.
        learning_rate: Learning rate of both networks; 2e-4 in the papers.
    """

    work_px: int = Field(128, ge=16, multiple_of=16)
    channels: tuple[PositiveInt, ...] = Field((32, 64, 96, 96), min_length=1, max_length=4)
    adversarial_weight: float = Field(1.0, ge=0)
    context_weight: float = Field(50.0, ge=0)
    latent_weight: float = Field(1.0, ge=0)
    score_weight: float = Field(0.9, ge=0, le=1)
    negatives: bool = False
    steps: int = Field(300, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


def encoder_levels(channels: tuple[int, ...]) -> list[nn.Sequential]:
    """Make the levels of an encoder, each of which halves the resolution.

    Args:
        channels: Width of each level; the input has 3 channels.
    """
    return [
        nn.Sequential(nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2))
        for i, o in zip((3, *channels), channels, strict=False)
    ]


class Decoder(nn.Module):
    """The decoder of a U-Net: from the features of every level to an image.

    Args:
        channels: Width of each level of the encoder.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        # The input of a level is the output of the coarser one and the encoder's features; the coarsest has the latter.
        handed = [*(2 * width for width in channels[:-1]), channels[-1]]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip(handed[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = nn.ConvTranspose2d(handed[0], 3, 4, stride=2, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode features, finest first, into images (b, 3, h, w), not clamped."""
        x = features[-1]
        for level, skipped in zip(self.levels, features[-2::-1], strict=True):
            x = torch.cat([level(x), skipped], dim=1)
        image: Tensor = self.head(x)
        return image


class Discriminator(nn.Module):
    """Tells images from reconstructions; its features are also used to compare the two.

    Args:
        channels: Width of each level.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*encoder_levels(channels))
        self.head = nn.Linear(channels[-1], 1)

    def features(self, signed: Tensor) -> Tensor:
        """Features of the last level, (b, 3, h, w) in [-1, 1] -> (b, c, h / 2^n, w / 2^n)."""
        last: Tensor = self.encoder(signed)
        return last

    def logits(self, features: Tensor) -> Tensor:
        """Logits (b,) of features; larger means more like a real image."""
        logits: Tensor = self.head(features.mean((2, 3)))[:, 0]
        return logits


class ReconstructionGan(BaselineDetector):
    """A reconstruction GAN, which scores the reconstruction error and the change of the discriminator's features.

    Args:
        size_px: Side of the images in pixels.
        options: Options of the system.
        generator: Network from images to reconstructions, both (b, 3, h, w) in [-1, 1].
    """

    def __init__(self, size_px: int, options: GanOptions, generator: nn.Module) -> None:
        super().__init__(size_px)
        self.options = options
        self.generator = generator
        self.discriminator = Discriminator(options.channels)

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; the mean of the map is the papers' score."""
        signed = 2 * resize(images, self.options.work_px) - 1
        recon = self.generator(signed)
        context = (signed - recon).square().mean(1, keepdim=True)
        change = self.discriminator.features(signed) - self.discriminator.features(recon)
        latent = resize(change.square().mean(1, keepdim=True), self.options.work_px)
        share = self.options.score_weight
        return resize(share * context + (1 - share) * latent, images.shape[-1])

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Average each map, (b,).

        Source: Akcay et al. 2019, equation 7, without the scaling to [0, 1] over the test set. Errors are squared as in
        the released code of both papers; the equations use norms.
        """
        return maps.mean((1, 2, 3))


def fit_gan(context: FitContext, options: GanOptions, build: Callable[[], nn.Module], name: str) -> ReconstructionGan:
    """Train generator and discriminator against each other.

    Args:
        context: Training images.
        options: Options of the system.
        build: Builds the generator.
        name: Name of the system; another name gives other initial weights.
    """
    system = build_seeded(context, name, lambda: ReconstructionGan(context.size_px, options, build()))
    discriminator = system.discriminator
    generator_optimizer, discriminator_optimizer = (
        torch.optim.Adam(network.parameters(), options.learning_rate, betas=(0.5, 0.999))
        for network in (system.generator, discriminator)
    )
    for images, generator in context.batches(options.steps, options.batch_size):
        view = resize(images, options.work_px)
        signed = 2 * view - 1
        recon = system.generator(signed)
        inputs = [signed, recon.detach()]
        if options.negatives:
            seeds = torch.randint(2**31, (len(view),), generator=generator).tolist()
            negative, _ = paste_defects(view, view.roll(1, 0), seeds, kinds=("patch",))
            inputs.append(2 * negative - 1)
        # One batch for all kinds: separate batch statistics would hide how they differ.
        real, *fakes = discriminator.logits(discriminator.features(torch.cat(inputs))).chunk(len(inputs))
        losses = [_cross_entropy(real, real=True), *(_cross_entropy(fake, real=False) for fake in fakes)]
        discriminator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(losses).sum())
        discriminator_optimizer.step()

        discriminator.requires_grad_(False)
        of_images, of_recon = discriminator.features(torch.cat([signed, recon])).chunk(2)
        loss = (
            options.adversarial_weight * _cross_entropy(discriminator.logits(of_recon), real=True)
            + options.context_weight * (signed - recon).abs().mean()
            + options.latent_weight * (of_images - of_recon).square().mean()
        )
        generator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        generator_optimizer.step()
        discriminator.requires_grad_(True)
    return freeze(system)


def _cross_entropy(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross-entropy of logits whose images are all real or all reconstructed."""
    return F.softplus(-logits if real else logits).mean()
