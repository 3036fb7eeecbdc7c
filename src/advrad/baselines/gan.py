"""What reconstruction GANs share: a discriminator, the duel that trains both networks, and how an image is judged.

Generator and discriminator follow Akcay et al. 2019 (Skip-GANomaly), on which Liang et al. 2023 (OCR-GAN) build, in
compact form: fewer channels and levels, and the output is not squashed by a tanh, which would cut gradients at white
and black.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.utils.config import Config


class GanOptions(Config):
    """How a reconstruction GAN is built, trained and used.

    Attributes:
        work_px: side at which the networks work; the papers' 256 (OCR-GAN) and 32 (Skip-GANomaly).
        channels: width of each level; a level has half the resolution of the one before, the first half of ``work_px``.
        adversarial_weight: of the adversarial loss.
        context_weight: of the mean absolute difference of image and reconstruction.
        latent_weight: of the mean squared difference of their discriminator features.
        score_weight: share of the reconstruction error in the score; the rest goes to the latent difference.
        negatives: the discriminator also learns to tell normal images from ones with a misplaced patch.
        steps: of training; the papers train for 15 (Skip-GANomaly) to 200 epochs.
        batch_size: images in each step.
        learning_rate: of both networks; the papers' is 2e-4.
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
    """Modules that each halve the resolution, from images of 3 channels to widths ``channels``."""
    return [
        nn.Sequential(nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2))
        for i, o in zip((3, *channels), channels, strict=False)
    ]


class Decoder(nn.Module):
    """From the features of every level back to an image: the expanding half of a U-Net.

    Args:
        channels: width of each level of the encoder.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        # A level hands up what came from below beside what the encoder had there; the coarsest has only the latter.
        handed = [*(2 * width for width in channels[:-1]), channels[-1]]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip(handed[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = nn.ConvTranspose2d(handed[0], 3, 4, stride=2, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features, finest first -> (b, 3, h, w), unbounded."""
        x = features[-1]
        for level, skipped in zip(self.levels, features[-2::-1], strict=True):
            x = torch.cat([level(x), skipped], dim=1)
        image: Tensor = self.head(x)
        return image


class Discriminator(nn.Module):
    """Tells images from reconstructions, and lends its features to the comparison of the two.

    Args:
        channels: width of each level.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*encoder_levels(channels))
        self.head = nn.Linear(channels[-1], 1)

    def features(self, signed: Tensor) -> Tensor:
        """(b, 3, h, w) in [-1, 1] -> (b, c, h / 2^n, w / 2^n), the last level's."""
        last: Tensor = self.encoder(signed)
        return last

    def verdict(self, features: Tensor) -> Tensor:
        """Features -> (b,) logits, larger is more like an image."""
        logits: Tensor = self.head(features.mean((2, 3)))[:, 0]
        return logits


class ReconstructionGan(BaselineDetector):
    """Judges by the reconstruction's error and by how it changes the discriminator's features.

    Args:
        size_px: side of the images.
        options: of the system.
        generator: network from images to reconstructions, (b, 3, h, w) in [-1, 1] each.
    """

    def __init__(self, size_px: int, options: GanOptions, generator: nn.Module) -> None:
        super().__init__(size_px)
        self.options = options
        self.generator = generator
        self.discriminator = Discriminator(options.channels)

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`BaselineDetector`; the map's mean is the papers' score, so each place shows its share of it."""
        signed = 2 * resize(images, self.options.work_px) - 1
        recon = self.generator(signed)
        context = (signed - recon).square().mean(1, keepdim=True)
        change = self.discriminator.features(signed) - self.discriminator.features(recon)
        latent = resize(change.square().mean(1, keepdim=True), self.options.work_px)
        share = self.options.score_weight
        return resize(share * context + (1 - share) * latent, images.shape[-1])

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Mean of each map, (b,).

        Source: Akcay et al. 2019, equation 7, without the scaling to [0, 1] over the test set. Errors are squared, as
        in the code released with both papers; the equations have norms.
        """
        return maps.mean((1, 2, 3))


def fit_gan(lesson: FitContext, options: GanOptions, build: Callable[[], nn.Module], name: str) -> ReconstructionGan:
    """Let generator and discriminator learn from each other.

    Args:
        lesson: normal images.
        options: of the system.
        build: makes the generator.
        name: of the system; another name, other initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.generator(f"{name} weights").initial_seed())
        system = ReconstructionGan(lesson.size_px, options, build())
    judge = system.discriminator
    makers, judges = (
        torch.optim.Adam(network.parameters(), options.learning_rate, betas=(0.5, 0.999))
        for network in (system.generator, judge)
    )
    for images, generator in lesson.batches(options.steps, options.batch_size):
        view = resize(images, options.work_px)
        signed = 2 * view - 1
        recon = system.generator(signed)
        shown = [signed, recon.detach()]
        if options.negatives:
            seeds = torch.randint(2**31, (len(view),), generator=generator).tolist()
            misplaced, _ = paste_defects(view, view.roll(1, 0), seeds, kinds=("patch",))
            shown.append(2 * misplaced - 1)
        # All in one batch: with statistics of their own, batch normalisation would hide how the kinds differ.
        good, *fakes = judge.verdict(judge.features(torch.cat(shown))).chunk(len(shown))
        losses = [_cross_entropy(good, real=True), *(_cross_entropy(fake, real=False) for fake in fakes)]
        judges.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(losses).sum())
        judges.step()

        judge.requires_grad_(False)
        of_good, of_recon = judge.features(torch.cat([signed, recon])).chunk(2)
        loss = (
            options.adversarial_weight * _cross_entropy(judge.verdict(of_recon), real=True)
            + options.context_weight * (signed - recon).abs().mean()
            + options.latent_weight * (of_good - of_recon).square().mean()
        )
        makers.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        makers.step()
        judge.requires_grad_(True)
    return system.eval().requires_grad_(False)


def _cross_entropy(logits: Tensor, *, real: bool) -> Tensor:
    """Of verdicts on images that are real, or are not."""
    return F.softplus(-logits if real else logits).mean()
