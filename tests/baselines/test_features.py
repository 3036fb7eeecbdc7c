"""Nearest neighbours and the blur against slow references, and the attack of adversarial training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from toy_features import ToyFeatures
from toy_models import assert_gradient, generator, random_images

from advrad.baselines.base import freeze
from advrad.baselines.features import (
    Radius,
    adversarial_examples,
    concatenate_maps,
    flatten_positions,
    gaussian_blur,
    nearest_neighbours,
)
from advrad.utils.config import Config


@pytest.mark.parametrize("count", [1, 3, 50])
def test_nearest_are_those_of_a_slow_search(count: int) -> None:
    queries = torch.randn(300, 5, generator=generator(1))  # more than one chunk
    bank = torch.randn(40, 5, generator=generator(2))
    squared, rows = nearest_neighbours(queries, bank, count)
    all_distances = np.array([[((q - b) ** 2).sum() for b in bank.double().numpy()] for q in queries.double().numpy()])
    assert squared.shape == rows.shape == (300, min(count, 40))
    np.testing.assert_allclose(squared, np.sort(all_distances, 1)[:, :count], rtol=1e-5)
    # Compare distances: neighbours that differ in the last digit only may come in either order.
    np.testing.assert_allclose(np.take_along_axis(all_distances, rows.numpy(), 1), squared, rtol=1e-5)
    assert all(len(set(row)) == len(row) for row in rows.tolist()), "nobody is named twice"


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    queries = 1000 + torch.randn(30, 4, generator=generator(1))
    squared, _ = nearest_neighbours(queries, queries + 1e-3, 1)
    torch.testing.assert_close(squared, torch.full_like(squared, 4e-6), rtol=0.3, atol=0)
    assert nearest_neighbours(queries, queries.clone(), 1)[0].max() == 0


def test_distances_have_exact_gradients() -> None:
    bank = torch.randn(20, 4, generator=generator(3)).double()
    queries = torch.randn(6, 4, generator=generator(4), dtype=torch.float64)
    assert_gradient(lambda q: nearest_neighbours(q, bank, 3)[0], queries)


@pytest.mark.parametrize("sigma", [0.1, 0.8, 1.5, 4.0])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    maps = torch.rand(2, 1, 20, 17, generator=generator(5), dtype=torch.float64)
    expected = [gaussian_filter(one[0].numpy(), sigma, mode="nearest", truncate=3) for one in maps]
    np.testing.assert_allclose(gaussian_blur(maps, sigma)[:, 0], np.stack(expected), rtol=1e-12)


def test_no_blur_leaves_maps_as_they_are() -> None:
    maps = torch.rand(2, 1, 8, 8, generator=generator(5))
    assert gaussian_blur(maps, 0.0) is maps


def test_maps_side_by_side_keep_their_values_and_places() -> None:
    fine = torch.rand(2, 3, 8, 8, generator=generator(6))
    ramp = torch.arange(0.5, 4).view(4, 1).expand(2, 2, 4, 4)  # the row of each cell's centre, in cells
    maps = concatenate_maps([fine, ramp])
    assert maps.shape == (2, 5, 8, 8)
    assert torch.equal(maps[:, :3], fine)
    expected = torch.tensor([0.5, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.5])
    torch.testing.assert_close(maps[:, 3:], expected.view(8, 1).expand(2, 2, 8, 8))
    positions = flatten_positions(maps)
    assert positions.shape == (2, 64, 5)
    assert torch.equal(positions[1, 8 * 3 + 5], maps[1, :, 3, 5])


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
