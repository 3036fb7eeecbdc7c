"""Normal images and images with a square of another colour, which a small network separates after seconds."""

from __future__ import annotations

import torch
from torch import Tensor
from toy_models import generator, stack


def normal_and_squares(count: int = 16) -> tuple[Tensor, Tensor]:
    """Make images outside the training set, (count, 3, 32, 32), and as many others with a square of 10 px each."""
    images = stack(2 * count, 32, 50).batch(slice(None))
    good, bad = images[:count], images[count:]
    for row, (top, left) in enumerate(torch.randint(22, (count, 2), generator=generator(5)).tolist()):
        bad[row, :, top : top + 10, left : left + 10] = torch.tensor([0.5, 0.2, 0.3])[:, None, None]
    return good, bad
