"""Distances of patches to given memory patches, and what a perturbation can make of them.

All patches are multiplied by the roots of their weights, so that distances are plain Euclidean ones. A perturbation of
at most eps in every pixel moves value j of a patch by at most ``reach[j] = eps * root[j]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Steps of the search for the best gain under a perturbation; the bound is valid after any number of them.
_GAIN_STEPS = 4


def _best_gain(patches: Tensor, memory: Tensor, gain: float) -> Tensor:
    """Gain within the bounds that brings a memory patch nearest, (b, L, k, 1)."""
    cross = (patches[:, :, None] * memory).sum(-1, keepdim=True)
    squares = memory.square().sum(-1, keepdim=True)
    return (cross / squares.clamp_min(1e-12)).clamp(1 - gain, 1 + gain)


def distance(patches: Tensor, memory: Tensor, gain: float) -> Tensor:
    """Distance of each patch, (b, L, d), to the nearest of its memory patches, (b, L, k, d)."""
    if gain:
        memory = _best_gain(patches, memory, gain) * memory
    squares = (patches[:, :, None] - memory).square().sum(-1).amin(-1)
    # The root has no gradient at 0: there, any subgradient will do, so 0.
    return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)


def highest(patches: Tensor, memory: Tensor, gain: float, reach: Tensor) -> Tensor:
    """Largest distance that a perturbation can cause: at most the least over memory patches of the largest to each."""
    if gain:
        memory = _best_gain(patches, memory, gain) * memory
    return ((patches[:, :, None] - memory).abs() + reach).square().sum(-1).amin(-1).sqrt()


def lowest(patches: Tensor, memory: Tensor, gain: float, reach: Tensor) -> Tensor:
    """Least distance that a perturbation can cause: every value moves towards the memory patch, at most to it.

    With a gain the square of the least distance is a convex function of the gain. Tangents at both ends of an interval
    that holds its minimum bound it from below. The interval shrinks to where a line through both slopes is 0. All of it
    is computed in float64: where tangents meet is a difference of squares that may be much larger than itself.
    """
    if not gain:
        return ((patches[:, :, None] - memory).abs() - reach).clamp_min(0).square().sum(-1).amin(-1).sqrt()
    queries, memory, reach = patches[:, :, None].double(), memory.double(), reach.double()

    def value_and_slope(at: Tensor) -> tuple[Tensor, Tensor]:
        difference = queries - at * memory
        left = (difference.abs() - reach).clamp_min(0)
        return left.square().sum(-1, keepdim=True), -2 * (left * difference.sign() * memory).sum(-1, keepdim=True)

    low = torch.full_like(memory[..., :1], 1 - gain)
    high = torch.full_like(low, 1 + gain)
    (at_low, slope_low), (at_high, slope_high) = value_and_slope(low), value_and_slope(high)
    for _ in range(_GAIN_STEPS):
        share = slope_low / (slope_low - slope_high).clamp_max(-1e-30)
        middle = low + share.clamp(0, 1) * (high - low)
        value, slope = value_and_slope(middle)
        rising = slope > 0
        low, at_low, slope_low = (
            torch.where(rising, old, new) for old, new in ((low, middle), (at_low, value), (slope_low, slope))
        )
        high, at_high, slope_high = (
            torch.where(rising, new, old) for old, new in ((high, middle), (at_high, value), (slope_high, slope))
        )
    # The minimum lies between the ends, or is an end: no lower than where the tangents meet.
    width = high - low
    apart = slope_high - slope_low
    step = torch.where(apart > 0, (at_low - at_high + slope_high * width) / apart.clamp_min(1e-30), 0).clamp(min=0)
    meeting = torch.minimum(at_low, at_low + slope_low * torch.minimum(step, width))
    least = torch.where(slope_low >= 0, at_low, torch.where(slope_high <= 0, at_high, meeting))
    return least.clamp_min(0).amin((-2, -1)).sqrt().to(patches.dtype)
