"""Smoothing any detector by noise on the image: independent draws, and bounds that hold and are tight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from broken_detectors import Noisy, honest
from torch import Tensor
from toy_models import generator, random_images

from advrad.certificates.order_statistics import bounds
from advrad.certificates.smoothing import BATCH_SIZE, Percentile, batch_size_on
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError, DetectorError

IMAGE = random_images(1, 16, seed=4)[0]


class Seen:
    """A detector that notes what it is shown; its score is the mean, and noise of its own if it is not deterministic.

    As the contract has it, all rows of a batch share that noise.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.shown = noise, list[Tensor]()

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        self.shown.append(images)
        return images.mean((1, 2, 3)) + self.noise * torch.randn(1, generator=generator)


def test_samples_share_a_batch_if_the_detector_is_deterministic() -> None:
    seen = Seen()
    Percentile(wrap(seen, deterministic=True), 0.1, deterministic=True).sample(
        IMAGE, (0.0,), 2 * BATCH_SIZE + 3, generator()
    )
    assert [len(images) for images in seen.shown] == [BATCH_SIZE, BATCH_SIZE, 3]


def test_samples_go_one_by_one_if_the_detector_has_noise() -> None:
    seen = Seen(noise=1.0)
    scores, _ = Percentile(wrap(seen), 1e-9, deterministic=False).sample(IMAGE, (0.0,), 200, generator())
    assert [len(images) for images in seen.shown] == [1] * 200
    # All that is left is the detector's noise, and it differs from draw to draw as normal noise does.
    drawn = scores[0, 0]
    assert len(set(drawn)) == 200
    assert np.std(drawn) == pytest.approx(1, rel=0.2)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 4 / math.sqrt(200)


def test_noise_from_the_global_generator_follows_ours() -> None:
    sampler = Percentile(wrap(Noisy()), 0.1, deterministic=False)
    first, again, other = (sampler.sample(IMAGE, (0.0,), 20, generator(seed))[0] for seed in (0, 0, 1))
    assert (first == again).all()
    assert len(set(first[0, 0]) | set(other[0, 0])) == 40


def test_the_noise_is_normal_independent_and_not_clipped() -> None:
    seen = Seen()
    sampler = Percentile(wrap(seen, deterministic=True), 0.5, deterministic=True)
    sampler.sample(IMAGE, (0.0,), 64, generator())
    noise = (torch.cat(seen.shown) - IMAGE) / 0.5
    assert float(torch.cat(seen.shown).min()) < -0.5
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 / math.sqrt(count)
    assert float(noise.std()) == pytest.approx(1, abs=4 / math.sqrt(count))
    apart = torch.corrcoef(noise.flatten(1)) - torch.eye(64)
    assert float(apart.abs().max()) < 5.5 / math.sqrt(IMAGE.numel())


def test_every_radius_gets_the_same_samples_as_both_bounds() -> None:
    sampler = Percentile(honest(), 0.1, deterministic=True)
    lower, upper = sampler.sample(IMAGE, (0.0, 0.1, 3.0), 10, generator())
    assert lower.shape == (1, 3, 10)
    assert (lower == upper).all() and (lower[0] == lower[0, 0]).all()
    assert sampler.shifts(16, 16) == sampler.shifts(300, 200) == (10.0,)


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan])
def test_without_noise_nothing_can_be_certified(sigma: float) -> None:
    with pytest.raises(ConfigError, match="without noise nothing can be certified"):
        Percentile(honest(), sigma, deterministic=True)


def test_a_score_of_nan_is_refused() -> None:
    broken = wrap(lambda images: images.mean((1, 2, 3)) * math.nan, deterministic=True)
    with pytest.raises(DetectorError, match="not a finite number"):
        Percentile(broken, 0.1, deterministic=True).sample(IMAGE, (0.0,), 2, generator())


def test_bounds_of_a_linear_score_are_its_worst_case() -> None:
    # The smoothed mean is the mean; a change of length r moves it by r / sqrt(pixels) at most.
    sampler = Percentile(wrap(lambda x: x.mean((1, 2, 3)), deterministic=True), 0.3, deterministic=True)
    radius, worst = 0.3, 0.3 / math.sqrt(IMAGE.numel())
    lower, upper = sampler.sample(IMAGE, (radius,), 20_000, generator())
    low, high = bounds(lower[:, 0], upper[:, 0], [radius / 0.3], 1e-3)
    clean = float(IMAGE.mean())
    assert worst < clean - low < 1.1 * worst
    assert worst < high - clean < 1.1 * worst


def test_no_attack_on_a_smoothed_autoencoder_leaves_the_bounds() -> None:
    detector, sigma, radius = honest(), 0.15, 0.3
    lower, upper = Percentile(detector, sigma, deterministic=True).sample(IMAGE, (radius,), 1000, generator(1))
    low, high = bounds(lower[:, 0], upper[:, 0], [radius / sigma], 1e-4)

    def smoothed(image: Tensor, seed: int, draws: int = 64) -> Tensor:
        noise = sigma * torch.randn(draws, *image.shape, generator=generator(seed))
        return detector.infer(image + noise, generator()).scores.median()

    found = []
    for sign in (-1, 1):
        move = torch.randn(IMAGE.shape, generator=generator(2))
        for step in range(25):
            move = (radius * move / move.norm()).requires_grad_()
            (slope,) = torch.autograd.grad(smoothed(IMAGE + move, seed=step), move)
            move = (move + sign * 0.4 * radius * slope / slope.norm()).detach()
        with torch.no_grad():
            found.append(float(smoothed(IMAGE + radius * move / move.norm(), seed=99, draws=2000)))
    with torch.no_grad():
        clean = float(smoothed(IMAGE, seed=99, draws=2000))
    assert low <= found[0] < clean < found[1] <= high
    # The attack comes some way towards the bounds, so neither is idle.
    assert found[1] - found[0] > 0.2 * (high - low)


def test_a_gpu_is_given_more_at_once() -> None:
    assert batch_size_on(torch.device("cpu")) == BATCH_SIZE < batch_size_on(torch.device("cuda"))
