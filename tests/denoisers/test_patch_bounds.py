"""Least distances to memory patches under a perturbation and a gain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advrad.denoisers.patch_bounds import lowest
from advrad.denoisers.patch_table import relative_error


def true_least(patches: Tensor, memory: Tensor, gain: float, reach: Tensor) -> Tensor:
    """Least distance in float64, by a search of thirds over the gain, in which the square is convex."""
    queries, others, reach = patches.double(), memory.double(), reach.double()

    def square(at: Tensor) -> Tensor:
        return ((queries - at * others).abs() - reach).clamp_min(0).square().sum(-1, keepdim=True)

    low = torch.full((len(queries), 1), 1 - gain, dtype=torch.float64)
    high = torch.full_like(low, 1 + gain)
    for _ in range(100):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        nearer_left = square(left) <= square(right)
        low, high = torch.where(nearer_left, low, left), torch.where(nearer_left, right, high)
    return square((low + high) / 2).sqrt()[:, 0]


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-4, 2 / 255])
@pytest.mark.parametrize("gain", [0.1, 0.5])
@pytest.mark.parametrize("length", [3, 27])
def test_a_patch_that_nearly_is_a_gain_of_the_memory_is_not_said_to_be_farther(
    length: int, gain: float, eps: float
) -> None:
    draws = torch.Generator().manual_seed(length)
    root = torch.full((length,), length**-0.5)
    memory = torch.randint(200, 256, (4000, length), generator=draws) / 255
    gains = 1 + gain * (2 * torch.rand(4000, 1, generator=draws) - 1)
    signs = torch.randint(0, 2, memory.shape, generator=draws) * 2 - 1
    beyond = 1 + 10 ** (-1 - 5 * torch.rand(4000, 1, generator=draws))
    patches = ((gains * memory + signs * eps * beyond).clamp(0, 1) * root).float()
    memory, reach = memory * root, eps * root
    found = lowest(patches[None], memory[None, :, None], gain, reach)[0].double()
    true = true_least(patches, memory, gain, reach)
    allowed = relative_error(length) * (1 + true)
    assert bool((found <= true + allowed).all())
    # Not by saying 0 everywhere: from where a perturbation is felt the bound is near.
    far = true > 1e-4
    assert eps < 1e-4 or (bool(far.any()) and bool((found[far] > 0.5 * true[far]).any()))
