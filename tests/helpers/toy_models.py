"""Small denoisers, detectors and images for tests, and a check of gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advrad.data.loading import ImageStack
from advrad.data.records import Record
from advrad.denoisers.base import Denoiser
from advrad.denoisers.lean import LeanConfig, LeanDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import MapStatistics

TINY = LeanConfig(channels=(8, 16), blocks=(1, 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """Make one generator for each image."""
    return [generator(1000 * seed + index) for index in range(count)]


def random_images(count: int, size_px: int = 32, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=generator(seed), dtype=dtype)


def stack(count: int = 12, size_px: int = 32, seed: int = 0) -> ImageStack:
    """Images of one product: a bright disc on a ramp, a little different each time."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size_px, :size_px] / size_px
    values = np.empty((count, 3, size_px, size_px))
    for i in range(count):
        disc = (y - 0.5) ** 2 + (x - 0.5) ** 2 < rng.uniform(0.08, 0.1)
        values[i] = 0.2 + 0.2 * y + 0.4 * disc + rng.normal(0, 0.02, (3, size_px, size_px))
    records = tuple(Record(Path(f"{i:03}.png"), "train", 0, "good", None) for i in range(count))
    return ImageStack(np.rint(values.clip(0, 1) * 65535).astype(np.uint16), records)


def random_denoiser(config: LeanConfig = TINY, seed: int = 0) -> LeanDenoiser:
    """Make a denoiser with no weight at zero, so that every path through it counts."""
    denoiser = LeanDenoiser(config)
    draws = generator(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            fan = max(1, parameter[0].numel() if parameter.ndim > 1 else 16)
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * (0.7 / fan**0.5))
    return denoiser.eval()


class Linear(Denoiser):
    """A denoiser that returns ``a z + b`` and records its inputs."""

    def __init__(self, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.tensor(a)), b
        self.asked: list[tuple[Tensor, Tensor]] = []

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        self.asked.append((z, sigma))
        return self.a * z + self.b


NEAR, FAR = NoiseView(view_px=32, sigma=0.2), NoiseView(view_px=16, sigma=0.4)

#: Two views, and settings that use every step of the score.
TWO_VIEWS = ScoreConfig(
    views=(NEAR, FAR),
    scales="separate",
    normalise_by_image_mean=True,
    normalisation="spread",
    filter_px=3,
    pooling=0.01,
)


def statistics(config: ScoreConfig, seed: int = 0) -> list[MapStatistics]:
    """Make statistics that differ between all maps."""
    draws = generator(seed)
    parts = []
    for i, size in enumerate(config.map_sizes):
        shape = (1, 1, size, size)
        mean = 0.05 * torch.rand(shape, generator=draws)
        spread = 0.01 + 0.01 * torch.rand(shape, generator=draws)
        # Some images of the first map lie above the ceiling, some below.
        parts.append(MapStatistics(mean, spread, 0.1 + 0.1 * i, 0.5 + 0.25 * i, 0.07 + 0.1 * i))
    return parts


def detector(score: ScoreConfig = TWO_VIEWS, calibrated: bool = True, **config: object) -> AdvRAD:
    """Make a small detector with random weights, 32 px, float32."""
    values = {"denoiser": TINY, "size_px": 32, "score": score, "precision": "float32"} | config
    made = AdvRAD(random_denoiser(), DetectorConfig(**values), statistics(score)).eval()
    if calibrated:
        made.calibrate([random_images(10, seed=90), random_images(10, seed=91)], 0.1, {"data": "made up"})
    return made


def assert_gradient(function: Callable[[Tensor], Tensor], at: Tensor, directions: int = 6, step: float = 1e-6) -> None:
    """Assert that autograd's gradient is that of finite differences, along random directions and single pixels.

    Args:
        function: Function from a float64 tensor to a tensor; a random projection makes it scalar.
        at: Point at which the gradient is checked.
        directions: Number of random directions, and of single coordinates.
        step: Step of the central difference.
    """
    assert at.dtype == torch.float64
    draws = generator(123)
    point = at.detach().clone().requires_grad_()
    value = function(point)
    weights = torch.randn(value.shape, generator=draws, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((value * weights).sum(), point)
    moves = [torch.randn(at.shape, generator=draws, dtype=torch.float64) for _ in range(directions)]
    for index in torch.randint(at.numel(), (directions,), generator=draws).tolist():
        single = torch.zeros(at.numel(), dtype=torch.float64)
        single[index] = 1
        moves.append(single.view(at.shape))
    largest = 0.0
    with torch.no_grad():
        for move in moves:
            exact, slopes = float((gradient * move).sum()), []
            # The kink of a rectifier between the two points falsifies a difference; a shorter step avoids it. A wrong
            # gradient is wrong for every step.
            for shorter in (step, step / 10, step / 100):
                difference = function(at + shorter * move) - function(at - shorter * move)
                slopes.append(float((difference * weights).sum() / (2 * shorter)))
                size = max(abs(slopes[-1]), float(gradient.norm()) * float(move.norm()) * 1e-2)
                if abs(exact - slopes[-1]) <= 1e-5 * size + 1e-9:
                    break
            else:
                raise AssertionError(f"gradient {exact}, finite differences {slopes}")
            largest = max(largest, abs(slopes[-1]))
    assert largest > 1e-6, "the function is constant here, so nothing was tested"
