"""Scores whose smoothed worst case is known exactly. An image is a single number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

SIGMA = 0.2


class Line:
    """Sampler of the score ``shape(x + sigma eps) + slope * x`` of a number x.

    If the shape is the identity, the median score is ``(1 + slope) x``, and a change of x by r moves it by
    ``(1 + slope) r``.
    """

    method, noise_hint = "line", "more noise"

    def __init__(
        self,
        shape: Callable[[Floats], Floats] = lambda z: z,
        slope: float = 1.0,
        sigma: float = SIGMA,
        quantile: float = 0.5,
    ):
        self.shape, self.slope, self.sigma, self.quantile, self.drawn = shape, slope, sigma, quantile, 0

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        return (1 / self.sigma,)

    def noise(self, count: int, generator: torch.Generator) -> Floats:
        return torch.randn(count, generator=generator).double().numpy()

    def sample(
        self, image: Tensor, radii: Sequence[float], count: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        self.drawn += count
        x = float(image)
        scores = self.shape(x + self.sigma * self.noise(count, generator))
        lower, upper = ([scores + self.slope * (x + side * radius) for radius in radii] for side in (-1, 1))
        return np.array([lower]), np.array([upper])


class OneByOne(Line):
    """Draws the same numbers, however many are drawn at a time."""

    def noise(self, count: int, generator: torch.Generator) -> Floats:
        return np.array([float(torch.randn((), generator=generator)) for _ in range(count)])


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64).view(1, 1, 1)
