"""What training shows the denoiser: batches, reproducible from the seed and the number of the step alone.

All randomness of step t comes from a generator seeded by (seed, t), drawn for the whole batch; each process then works
on its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from advrad.data.loading import ImageStack
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.utils.config import Config
from advrad.utils.precision import Precision
from advrad.utils.seeding import step_generator

Symmetry = Literal["none", "horizontal", "vertical", "both", "square"]


class View(Config):
    """What a training batch shows: windows of images.

    Attributes:
        picture_px: the image is shrunk to this size.
        window_px: side of the random window cut from it; equal to ``picture_px`` for the whole image.
    """

    picture_px: int = Field(gt=0)
    window_px: int = Field(gt=0)


class TrainConfig(Config):
    """Everything that, with the data, decides the weights.

    Attributes:
        seed: of every draw.
        steps: optimiser steps.
        size_px: images enter the detector at this size, squeezed to a square.
        views: batches take turns among these.
        batch_size: images per step over all processes.
        learning_rate: peak rate of AdamW; Muon's follows it.
        warmup: share of the steps over which the rate rises; then it falls as a cosine to 0.
        weight_decay: decoupled.
        clip_norm: largest gradient norm.
        ema_share: half-life of the weights' moving average, as a share of the steps.
        restore: share of rows that show a synthetic defect which the denoiser must undo.
        exposure: standard deviation of the logarithm of a random gain on each row, so that light which drifts from
            shift to shift is no anomaly; 0 leaves the images as they are.
        symmetry: mirror images and quarter turns under which the product stays normal.
        harden: ``linf`` radius within which every batch is moved against the denoiser before it learns from it,
            [0, 1] pixel units; 0 takes the images as they are.
        precision: arithmetic of the network; ``auto`` is bfloat16 where the processor has it.
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
    restore: float = Field(0.6, ge=0, le=1)
    exposure: float = Field(0.1, ge=0)
    symmetry: Symmetry = "none"
    harden: float = Field(0.0, ge=0, le=1)
    precision: Precision = "auto"


def find_symmetry(stack: ImageStack, limit: int = 200, size_px: int = 32, tolerance: float = 1.1) -> Symmetry:
    """Which mirror images and turns of a normal image are as normal as the image itself.

    A transformation is allowed if transformed images lie no further from their nearest other image than
    untransformed ones do, by the median. It looks at training images only.

    Args:
        stack: normal training images.
        limit: at most so many are compared.
        size_px: they are compared at this size.
        tolerance: allowed ratio of median squared distances.
    """
    small = resize(stack.batch(range(min(limit, len(stack)))), size_px)
    flat = small.flatten(1)

    def nearest(moved: Tensor) -> float:
        distance = torch.cdist(moved.flatten(1), flat).square()
        distance.fill_diagonal_(math.inf)
        return float(distance.amin(1).median())

    own = nearest(small) * tolerance
    turned = nearest(torch.rot90(small, 1, (2, 3))) <= own
    horizontal, vertical = nearest(small.flip(3)) <= own, nearest(small.flip(2)) <= own
    if horizontal and vertical:
        return "square" if turned else "both"
    return "horizontal" if horizontal else "vertical" if vertical else "none"


def _mirror(images: Tensor, draws: Tensor, symmetry: Symmetry) -> Tensor:
    """Mirror and turn each row as its three draws in [0, 1) say."""
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


def make_batch(
    stack: ImageStack, config: TrainConfig, step: int, rows: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One process's share of a step's batch.

    Args:
        stack: the training images.
        config: of the run.
        step: 0-based.
        rows: of the whole batch.

    Returns:
        The arguments of :meth:`Denoiser.training_loss`: images, corrupted, level, noise, window.
    """
    generator = step_generator(config.seed, step)
    view, total = config.views[step % len(config.views)], config.batch_size
    chosen, donors = torch.randint(len(stack), (2, total), generator=generator)[:, rows]
    turns = torch.rand(total, 3, generator=generator)[rows]
    corners = torch.rand(total, 2, generator=generator)[rows]
    restored = torch.rand(total, generator=generator)[rows] < config.restore
    seeds = torch.randint(2**31 - 1, (total,), generator=generator)[rows]
    # Stratified: every batch covers the noise levels evenly, which calms the loss.
    level = ((torch.arange(total) + torch.rand(total, generator=generator)) / total)[rows]
    noise = torch.randn(total, 3, view.window_px, view.window_px, generator=generator)[rows]
    gain = torch.exp(config.exposure * torch.randn(total, 1, 1, 1, generator=generator))[rows]

    spare = view.picture_px - view.window_px
    # Even corners keep the patches of the stem aligned with those of the whole image.
    corners = (corners * (spare // 2 + 1)).long() * 2
    windows = torch.cat([corners, corners + view.window_px], dim=1) / view.picture_px * 2.0 - 1.0

    def cut(images: Tensor) -> Tensor:
        images = _mirror(resize(images, view.picture_px), turns, config.symmetry)
        side = view.window_px
        rows = [row[:, y : y + side, x : x + side] for row, (y, x) in zip(images, corners.tolist(), strict=True)]
        return (torch.stack(rows) * gain).clamp(0, 1)

    images = cut(stack.batch(chosen.tolist()))
    corrupted = images
    if bool(restored.any()):
        pasted, _ = paste_defects(images, cut(stack.batch(donors.tolist())), seeds.tolist())
        corrupted = torch.where(restored[:, None, None, None], pasted, images)
    return images, corrupted, level, noise, windows


#: Added to a step's number for the starts of its adversary, so that their draws are unrelated to the batch's.
_ADVERSARY = 2**32


def random_start(config: TrainConfig, step: int, rows: slice, images: Tensor) -> Tensor:
    """Where the adversary of a step begins: changes uniform within ``config.harden``.

    Args:
        config: of the run.
        step: 0-based.
        rows: of the whole batch, of this process.
        images: (b, 3, h, w), its images, for their shape.

    Returns:
        (b, 3, h, w).
    """
    generator = step_generator(config.seed, step + _ADVERSARY)
    draws = torch.rand(config.batch_size, *images.shape[1:], generator=generator)[rows]
    return config.harden * (2 * draws - 1)


def whole_images(stack: ImageStack, config: TrainConfig, count: int = 32) -> Iterator[Tensor]:
    """Batches of whole normal images, mirrored and lit as in training, for :meth:`Denoiser.adapt`.

    Args:
        stack: the training images.
        config: of the run.
        count: number of batches.

    Yields:
        (batch_size, 3, size_px, size_px) in [0, 1].
    """
    size_px = config.size_px
    plain = config.model_copy(update={"views": (View(picture_px=size_px, window_px=size_px),), "restore": 0.0})
    for step in range(-count, 0):  # steps that training does not take
        yield make_batch(stack, plain, step, slice(None))[0]
