"""The memory of the memory denoiser, and the training images that are kept out of it.

A memory returns its own images as they are, so the images of which the error statistics are computed must not be in it:
a third of the training images is held back.
"""

from __future__ import annotations

import torch

from advrad.data.loading import ImageStack
from advrad.denoisers.memory import MemoryDenoiser, MemoryDenoiserConfig
from advrad.training.score_selection import REFERENCES
from advrad.utils.seeding import generator_for

#: Images that are unpacked at once.
_BATCH = 8


def held_back(count: int, seed: int) -> list[int]:
    """Choose the training images that are not in the memory: a third, between 2 and 64.

    Args:
        count: Number of training images.
        seed: Seed of the choice.

    Returns:
        Rows of the images.
    """
    order: list[int] = torch.randperm(count, generator=generator_for(seed, "memory denoiser")).tolist()
    return order[: max(2, min(REFERENCES, count // 3))]


def fill_memory(train: ImageStack, config: MemoryDenoiserConfig, seed: int) -> MemoryDenoiser:
    """Make a memory denoiser of the training images that are not held back.

    Args:
        train: Training images.
        config: Shape of the denoiser.
        seed: Seed of the choice of these images, as in :func:`held_back`.

    Returns:
        The denoiser, in evaluation mode.
    """
    out = set(held_back(len(train), seed))
    kept = [row for row in range(len(train)) if row not in out]
    batches = (train.batch(kept[start : start + _BATCH]) for start in range(0, len(kept), _BATCH))
    return MemoryDenoiser.fit(batches, config)
