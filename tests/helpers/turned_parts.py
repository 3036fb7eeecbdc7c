"""Drawings of parts that lie turned and shifted in front of a background."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIZE = 64
BACKGROUND = 0.2


def tapered_bar(
    x: float,
    y: float,
    degrees: float,
    *,
    wide: float = 6.0,
    narrow: float = 2.0,
    half: float = 16.0,
    aspect: float = 1.0,
) -> Tensor:
    """Draw a bar that is wider at one end, with soft edges.

    Args:
        x: Centre in pixels, across.
        y: Centre in pixels, downwards.
        degrees: Direction of the narrow end.
        wide: Half width of the wide end.
        narrow: Half width of the narrow end.
        half: Half length.
        aspect: Width of the scene divided by its height, at least 1; the scene is squashed into the square.

    Returns:
        Opacity, (SIZE, SIZE) float64 in [0, 1].
    """
    places = torch.arange(SIZE, dtype=torch.float64) + 0.5
    dx, dy = places - x, (places[:, None] - y) / aspect
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    width = wide + (narrow - wide) * (u + half) / (2 * half)
    return (torch.minimum(width - v.abs(), half - u.abs()) / 1.5 + 0.5).clamp(0, 1)


def pictured(opacity: Tensor, seed: int, contrast: float = 0.5) -> Tensor:
    """Put a part in front of a noisy background, (1, 3, SIZE, SIZE) float64."""
    draws = torch.Generator().manual_seed(seed)
    noise = 0.02 * torch.randn(1, 3, SIZE, SIZE, generator=draws).double()
    return BACKGROUND + opacity * contrast + noise


def turned_bars(count: int, seed: int = 0) -> Tensor:
    """Draw a bar at random positions in random directions, (count, 3, SIZE, SIZE) float64."""
    draws = torch.Generator().manual_seed(seed)
    images = []
    for index in range(count):
        x, y, turn = torch.rand(3, generator=draws).tolist()
        images.append(pictured(tapered_bar(27 + 10 * x, 27 + 10 * y, 360 * turn), seed + 1000 * index))
    return torch.cat(images)


def two_bars(count: int, seed: int = 0) -> Tensor:
    """Draw two bars, one above the other, (count, 3, SIZE, SIZE) float64."""
    draws = torch.Generator().manual_seed(seed)
    images = []
    for index in range(count):
        a, b, c, d = (4 * torch.rand(4, generator=draws) - 2).tolist()
        opacity = tapered_bar(32 + a, 16 + b, 5 * c) + tapered_bar(32 + c, 48 + d, 5 * a)
        images.append(pictured(opacity, seed + 1000 * index))
    return torch.cat(images)


def four_bars(count: int, seed: int = 0) -> Tensor:
    """Draw four short bars, each in its own quarter, (count, 3, SIZE, SIZE) float64."""
    draws = torch.Generator().manual_seed(seed)
    images = []
    for index in range(count):
        opacity = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        for x, y in ((16, 16), (48, 16), (16, 48), (48, 48)):
            a, b, turn = (2 * torch.rand(3, generator=draws) - 1).tolist()
            opacity += tapered_bar(x + a, y + b, 5 * turn, wide=4, narrow=2, half=8)
        images.append(pictured(opacity, seed + 1000 * index))
    return torch.cat(images)
