"""The blur against a slow reference, and the attack of adversarial training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from toy_features import ToyFeatures
from toy_models import generator, random_images

from advrad.baselines.base import freeze
from advrad.baselines.features import (
    Radius,
    adversarial_examples,
    gaussian_blur,
)
from advrad.utils.config import Config


@pytest.mark.parametrize("sigma", [0.1, 0.8, 1.5, 4.0])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    maps = torch.rand(2, 1, 20, 17, generator=generator(5), dtype=torch.float64)
    expected = [gaussian_filter(one[0].numpy(), sigma, mode="nearest", truncate=3) for one in maps]
    np.testing.assert_allclose(gaussian_blur(maps, sigma)[:, 0], np.stack(expected), rtol=1e-12)


def test_no_blur_leaves_maps_as_they_are() -> None:
    maps = torch.rand(2, 1, 8, 8, generator=generator(5))
    assert gaussian_blur(maps, 0.0) is maps


def test_worst_images_lie_in_the_ball_and_beat_chance() -> None:
    network = freeze(ToyFeatures())

    def objective(images: torch.Tensor) -> torch.Tensor:
        return network(images)[-1].square().sum((1, 2, 3))

    images, eps = random_images(3, seed=1), 4 / 255
    found = adversarial_examples(objective, images, eps, 5, generator(2))
    assert not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1
    assert (found - images).abs().amax() <= eps
    assert (found - images).abs().mean() > 0.5 * eps
    noise = eps * torch.sign(torch.randn(20, *images.shape, generator=generator(3)))
    by_chance = torch.stack([objective((images + part).clamp(0, 1)) for part in noise]).amax(0)
    assert (objective(found) > by_chance).all()
    assert torch.equal(found, adversarial_examples(objective, images, eps, 5, generator(2)))
    assert not torch.equal(found, adversarial_examples(objective, images, eps, 5, generator(4)))


def test_no_radius_leaves_images_as_they_are() -> None:
    images = random_images(2)
    assert adversarial_examples(lambda x: x.sum((1, 2, 3)), images, 0.0, 5, generator()) is images


class _Options(Config):
    eps: Radius = 2 / 255


@pytest.mark.parametrize(("written", "value"), [("2/255", 2 / 255), ("0.5", 0.5), (0, 0.0), (1, 1.0)])
def test_a_radius_is_a_number_or_a_fraction(written: object, value: float) -> None:
    options = _Options.parse({"eps": written}, "grid.toml")
    assert options.eps == value
    assert _Options.parse(options.model_dump(mode="json"), "grid.toml") == options


@pytest.mark.parametrize("written", ["2/0", "two", -0.1, "256/255", float("nan"), [1], None])
def test_a_bad_radius_is_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="2/255"):
        _Options(eps=written)
