"""Training batches, reproducible from the seed and the number of the step.

All random draws of a step come from one generator, seeded by the seed and the step, for the whole batch. Each process
then takes its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from advrad.data.loading import ImageStack
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.utils.config import Config
from advrad.utils.precision import Precision
from advrad.utils.seeding import generator_for

#: Mirror images and quarter turns under which a normal image stays normal.
Symmetry = Literal["none", "horizontal", "vertical", "both", "square"]


class View(Config):
    """Size at which a training batch shows images: random windows of resized images.

    Attributes:
        image_px: Side of the square to which images are resized, pixels; ``picture_px`` in files.
        window_px: Side of the random window cut from them, pixels; equal to ``image_px`` for whole images.

    Example:
        >>> View(image_px=256, window_px=128).window_px
        128
    """

    image_px: int = Field(gt=0, alias="picture_px")
    window_px: int = Field(gt=0)


class TrainConfig(Config):
    """Options of the training loop. With the images they determine the weights.

    Attributes:
        seed: Seed for all random draws.
        steps: Number of optimiser steps.
        size_px: Side of the square to which the detector resizes images, pixels.
        views: Sizes at which batches show images, used in turn.
        batch_size: Images per step, summed over all processes.
        learning_rate: Peak learning rate of AdamW; the rate of Muon is proportional to it.
        warmup: Share of the steps in which the rate rises; afterwards it falls to 0 as a cosine.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest norm of the gradient.
        ema_share: Half-life of the moving average of the weights, as a share of the steps.
        defect_probability: Probability that a row shows a synthetic defect, which the denoiser learns to remove;
            ``restore`` in files.
        brightness_jitter: Standard deviation of the logarithm of a random brightness factor for each row, so that
            changes of the lighting do not count as anomalies; 0 disables it; ``exposure`` in files.
        symmetry: Mirror images and quarter turns under which a normal image stays normal.
        adversarial_eps: Linf radius of the perturbations of adversarial training, [0, 1] pixel units; 0 disables it;
            ``harden`` in files.
        precision: Arithmetic of the network; ``auto`` is bfloat16 where the processor supports it.
    """

    seed: int = Field(0, ge=0)
    steps: int = Field(ge=0)
    size_px: int = Field(256, gt=0)
    views: tuple[View, ...] = Field(min_length=1)
    batch_size: int = Field(8, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    warmup: float = Field(0.04, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema_share: float = Field(0.04, gt=0)
    defect_probability: float = Field(0.6, ge=0, le=1, alias="restore")
    brightness_jitter: float = Field(0.1, ge=0, alias="exposure")
    symmetry: Symmetry = "none"
    adversarial_eps: float = Field(0.0, ge=0, le=1, alias="harden")
    precision: Precision = "auto"


class TrainingBatch(NamedTuple):
    """The arguments of :meth:`advrad.denoisers.base.Denoiser.training_loss`, in its order.

    Attributes:
        images: Normal images, (b, 3, h, w) float in [0, 1].
        corrupted: The same images, some of them with a synthetic defect, (b, 3, h, w).
        level: Uniform numbers in [0, 1) for the noise levels, (b,).
        noise: Standard normal noise, (b, 3, h, w).
        window: Top, left, bottom and right of each image in its whole image, (b, 4), in [-1, 1].
    """

    images: Tensor
    corrupted: Tensor
    level: Tensor
    noise: Tensor
    window: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """Copy the batch to a device.

        Args:
            device: Target device.
        """
        return TrainingBatch(*(part.to(device) for part in self))


def find_symmetry(stack: ImageStack, limit: int = 200, size_px: int = 32, tolerance: float = 1.1) -> Symmetry:
    """Find the mirror images and quarter turns under which a normal image stays normal.

    A transformation is accepted if the median distance of transformed images to the nearest other image is about that
    of untransformed images.

    Args:
        stack: Normal training images.
        limit: Largest number of images to compare.
        size_px: Side to which the images are resized for the comparison, pixels.
        tolerance: Largest accepted ratio of the median squared distances.

    Returns:
        The largest accepted group of transformations.
    """
    small = resize(stack.batch(range(min(limit, len(stack)))), size_px)
    flat = small.flatten(1)

    def nearest(transformed: Tensor) -> float:
        distance = torch.cdist(transformed.flatten(1), flat).square()
        distance.fill_diagonal_(math.inf)
        return float(distance.amin(1).median())

    accepted = nearest(small) * tolerance
    turned = nearest(torch.rot90(small, 1, (2, 3))) <= accepted
    horizontal, vertical = nearest(small.flip(3)) <= accepted, nearest(small.flip(2)) <= accepted
    if horizontal and vertical:
        return "square" if turned else "both"
    return "horizontal" if horizontal else "vertical" if vertical else "none"


def _mirror(images: Tensor, draws: Tensor, symmetry: Symmetry) -> Tensor:
    """Mirror and turn each image at random.

    Args:
        images: Images, (b, c, h, w).
        draws: Uniform numbers in [0, 1), (b, 3): below 1/2 they mirror left and right, mirror up and down, transpose.
        symmetry: Transformations that are allowed.
    """
    rows = []
    for row, (first, second, third) in zip(images, draws.tolist(), strict=True):
        if symmetry in ("horizontal", "both", "square") and first < 0.5:
            row = row.flip(2)
        if symmetry in ("vertical", "both", "square") and second < 0.5:
            row = row.flip(1)
        if symmetry == "square" and third < 0.5:
            row = row.transpose(1, 2)
        rows.append(row)
    return torch.stack(rows)


def make_batch(stack: ImageStack, config: TrainConfig, step: int, rows: slice) -> TrainingBatch:
    """Make one process's rows of the batch of a step.

    Args:
        stack: Training images.
        config: Options of the training loop.
        step: Number of the step, counted from 0.
        rows: Rows of the whole batch to make.
    """
    generator = generator_for(config.seed, "batch", step)
    view, total = config.views[step % len(config.views)], config.batch_size
    # Every number is drawn for the whole batch, so that the processes together use the draws of one.
    chosen, donors = torch.randint(len(stack), (2, total), generator=generator)[:, rows]
    turns = torch.rand(total, 3, generator=generator)[rows]
    corners = torch.rand(total, 2, generator=generator)[rows]
    with_defect = torch.rand(total, generator=generator)[rows] < config.defect_probability
    seeds = torch.randint(2**31 - 1, (total,), generator=generator)[rows]
    # Stratified: each batch covers the noise levels evenly, which lowers the variance of the loss.
    level = ((torch.arange(total) + torch.rand(total, generator=generator)) / total)[rows]
    noise = torch.randn(total, 3, view.window_px, view.window_px, generator=generator)[rows]
    brightness = torch.exp(config.brightness_jitter * torch.randn(total, 1, 1, 1, generator=generator))[rows]

    margin = view.image_px - view.window_px
    # Even corners align the patches of the network's first layer with those of the whole image.
    corners = (corners * (margin // 2 + 1)).long() * 2
    window = torch.cat([corners, corners + view.window_px], dim=1) / view.image_px * 2.0 - 1.0

    def crop(images: Tensor) -> Tensor:
        images = _mirror(resize(images, view.image_px), turns, config.symmetry)
        side = view.window_px
        crops = [row[:, y : y + side, x : x + side] for row, (y, x) in zip(images, corners.tolist(), strict=True)]
        return (torch.stack(crops) * brightness).clamp(0, 1)

    images = crop(stack.batch(chosen.tolist()))
    corrupted = images
    if bool(with_defect.any()):
        pasted, _ = paste_defects(images, crop(stack.batch(donors.tolist())), seeds.tolist())
        corrupted = torch.where(with_defect[:, None, None, None], pasted, images)
    return TrainingBatch(images, corrupted, level, noise, window)


def random_start(config: TrainConfig, step: int, rows: slice, images: Tensor) -> Tensor:
    """Draw the perturbations from which the adversarial step of a training step starts.

    Args:
        config: Options of the training loop.
        step: Number of the step, counted from 0.
        rows: Rows of the whole batch that this process has.
        images: Images of these rows, (b, 3, h, w); only the shape is used.

    Returns:
        Perturbations, (b, 3, h, w), uniform in [-adversarial_eps, adversarial_eps].
    """
    generator = generator_for(config.seed, "adversarial start", step)
    draws = torch.rand(config.batch_size, *images.shape[1:], generator=generator)[rows]
    return config.adversarial_eps * (2 * draws - 1)


def whole_images(stack: ImageStack, config: TrainConfig, count: int = 32) -> Iterator[Tensor]:
    """Make batches of whole normal images, augmented as in training, for :meth:`Denoiser.fit_statistics`.

    Args:
        stack: Training images.
        config: Options of the training loop.
        count: Number of batches.

    Yields:
        Images, (batch_size, 3, size_px, size_px) float in [0, 1].
    """
    whole = View(image_px=config.size_px, window_px=config.size_px)
    plain = config.model_copy(update={"views": (whole,), "defect_probability": 0.0})
    for step in range(-count, 0):  # training itself counts from 0
        yield make_batch(stack, plain, step, slice(None)).images
