"""Distances to the patches of normal images: equal to a slow oracle, and never outside their bounds under attack."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_bounds import highest, lowest
from advrad.denoisers.patch_memory import PatchMemory


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def memory_of(config: MemoryConfig, images: Tensor, groups: Tensor | None = None) -> PatchMemory:
    empty = PatchMemory(config, torch.zeros(1, 3, config.cells, config.cells, dtype=torch.uint8), torch.zeros(1))
    cells = empty.quantised(empty.cells(images))
    return PatchMemory(config, cells, torch.arange(len(images)) if groups is None else groups)


def oracle(memory: PatchMemory, image: Tensor, exclude: int | None = None) -> npt.NDArray[np.float64]:
    """The distance of every patch of an image to the memory, site by site and patch by patch, in float64."""
    config, k = memory.config, memory.config.patch_cells
    cells = memory.cells(image).double().numpy()[0]
    weights = config.weights().numpy().reshape(3, k, k)
    stored = memory.images.double().numpy() / 255
    window = config.sites if config.window_cells is None else config.window_cells
    found = np.full((config.sites, config.sites), np.inf)
    for row, column in np.ndindex(found.shape):
        patch = cells[:, row : row + k, column : column + k]
        for other_row, other_column in np.ndindex(found.shape):
            if max(abs(other_row - row), abs(other_column - column)) > window:
                continue
            for image_index in range(len(stored)):
                if exclude is not None and int(memory.groups[image_index]) == exclude:
                    continue
                other = stored[image_index][:, other_row : other_row + k, other_column : other_column + k]
                gain = 1.0
                if config.gain:
                    square = max(float((weights * other * other).sum()), 1e-12)
                    gain = float((weights * patch * other).sum()) / square
                    gain = float(np.clip(gain, 1 - config.gain, 1 + config.gain))
                distance = math.sqrt(float((weights * (patch - gain * other) ** 2).sum()))
                found[row, column] = min(found[row, column], distance)
    return found


configs = st.builds(
    lambda cells, cell_px, patch_cells, window, taper, gain: MemoryConfig(
        size_px=cells * cell_px,
        cell_px=cell_px,
        patch_cells=patch_cells,
        window_cells=window,
        taper=taper,
        gain=gain,
    ),
    cells=st.integers(5, 8),
    cell_px=st.sampled_from([1, 2]),
    patch_cells=st.sampled_from([1, 3, 5]),
    window=st.sampled_from([None, 0, 1, 2]),
    taper=st.sampled_from(["flat", "gaussian"]),
    gain=st.sampled_from([0.0, 0.15]),
)


def example(config: MemoryConfig, seed: int, count: int = 4) -> tuple[PatchMemory, Tensor]:
    """A memory of similar images, and an image that differs from them a little more."""
    draws, shape = generator(seed), (3, config.size_px, config.size_px)
    common = torch.rand(1, *shape, generator=draws)
    normal = (common + 0.1 * torch.randn(count, *shape, generator=draws)).clamp(0, 1)
    return memory_of(config, normal), (common + 0.15 * torch.randn(1, *shape, generator=draws)).clamp(0, 1)


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=st.integers(0, 1000), exclude=st.sampled_from([None, 0, 2]))
def test_distances_are_those_of_the_oracle(config: MemoryConfig, seed: int, exclude: int | None) -> None:
    memory, image = example(config, seed)
    left_out = None if exclude is None else torch.tensor([exclude])
    found = memory.nearest(image, left_out)[0, 0].numpy()
    np.testing.assert_allclose(found, oracle(memory, image, exclude), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=st.integers(0, 1000), eps=st.sampled_from([0.0, 2 / 255, 0.05]))
def test_no_perturbation_leaves_the_bounds(config: MemoryConfig, seed: int, eps: float) -> None:
    memory, image = example(config, seed)
    bounds, draws = memory.bounds(image, eps), generator(seed + 1)
    assert bool((bounds.lower <= bounds.nearest).all()) and bool((bounds.nearest <= bounds.upper).all())
    for _ in range(10):
        signs = torch.randn(image.shape, generator=draws).sign()
        assert_inside(memory, image + eps * signs, bounds.lower, bounds.upper)
    for direction in (1, -1):
        attacked = image.clone()
        for _ in range(10):
            attacked = attacked.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(memory.nearest(attacked).sum(), attacked)
            step = attacked.detach() + direction * eps / 3 * gradient.sign()
            attacked = image + (step - image).clamp(-eps, eps)
            assert_inside(memory, attacked, bounds.lower, bounds.upper)


def assert_inside(memory: PatchMemory, image: Tensor, lower: Tensor, upper: Tensor) -> None:
    found = memory.nearest(image.detach())
    assert bool((found >= lower).all()) and bool((found <= upper).all())


def test_bounds_that_are_too_narrow_are_noticed() -> None:
    """The attacks of the test above are strong enough to leave bounds that hold for half the radius only."""
    config = MemoryConfig(size_px=6, cell_px=1, patch_cells=3, window_cells=1)
    memory, image = example(config, 3)
    narrow, eps = memory.bounds(image, 0.025), 0.05
    attacked = image.clone()
    for _ in range(10):
        attacked = attacked.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(memory.nearest(attacked)[0, 0, 1, 1], attacked)
        attacked = image + (attacked.detach() + eps / 3 * gradient.sign() - image).clamp(-eps, eps)
    assert bool((memory.nearest(attacked.detach()) > narrow.upper).any())


def test_the_bounds_of_a_single_memory_patch_are_attained() -> None:
    config = MemoryConfig(size_px=3, cell_px=1, patch_cells=3, window_cells=0)
    memory = memory_of(config, torch.full((2, 3, 3, 3), 0.5), torch.tensor([0, 1]))
    image = torch.rand(1, 3, 3, 3, generator=generator(5))
    difference, eps = image - memory.images[:1].float() / 255, 0.07
    bounds = memory.bounds(image, eps)
    towards = image - difference.sign() * torch.minimum(difference.abs(), torch.tensor(eps))
    away = image + eps * difference.sign()
    torch.testing.assert_close(memory.nearest(towards), bounds.lower, rtol=0, atol=1e-4)
    torch.testing.assert_close(memory.nearest(away), bounds.upper, rtol=0, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.sampled_from([0.05, 0.15, 0.4]), eps=st.floats(0, 0.1))
def test_bounds_with_a_gain_hold_for_every_gain(seed: int, gain: float, eps: float) -> None:
    draws = generator(seed)
    patch, memory = torch.rand(1, 1, 12, generator=draws), torch.rand(1, 1, 1, 12, generator=draws)
    reach = torch.full((12,), eps)
    low, high = float(lowest(patch, memory, gain, reach)), float(highest(patch, memory, gain, reach))
    gains = torch.linspace(1 - gain, 1 + gain, 2001)[:, None]
    difference = (patch[0] - gains * memory[0, 0]).abs()
    exact_low = float((difference - eps).clamp_min(0).square().sum(1).min().sqrt())
    exact_high = float((difference + eps).square().sum(1).min().sqrt())
    assert low <= exact_low + 1e-5
    assert low >= exact_low - 2e-3, "the tangents bound the minimum closely"
    assert high >= exact_high - 1e-5


def test_a_copy_of_a_memory_image_has_distance_zero_and_its_group_is_left_out() -> None:
    config = MemoryConfig(size_px=8, cell_px=1, patch_cells=3, window_cells=1)
    images = torch.rand(3, 3, 8, 8, generator=generator(1)).mul(255).round() / 255
    memory = memory_of(config, images[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 0]))
    assert float(memory.nearest(images[:1]).max()) < 1e-6
    assert float(memory.nearest(images[:1], torch.tensor([0])).min()) > 1e-3


def test_a_distance_depends_on_its_own_image_only() -> None:
    config = MemoryConfig(size_px=8, cell_px=2, patch_cells=3, window_cells=None)
    memory, image = example(config, 7)
    other = torch.rand(1, 3, 8, 8, generator=generator(2))
    torch.testing.assert_close(memory.nearest(torch.cat([other, image]))[1:], memory.nearest(image))


@pytest.mark.parametrize("size_px", [5, 8, 13, 32])
def test_images_of_any_size_are_averaged_with_weights_that_are_not_negative(size_px: int) -> None:
    config = MemoryConfig(size_px=8, cell_px=2, patch_cells=3)
    memory, _ = example(config, 0)
    cells = []
    for pixel in range(size_px * size_px):
        image = torch.zeros(1, 3, size_px * size_px)
        image[:, :, pixel] = 1
        cells.append(memory.cells(image.reshape(1, 3, size_px, size_px)))
    assert min(float(cell.min()) for cell in cells) >= 0
    torch.testing.assert_close(torch.stack(cells).sum(0), torch.ones_like(cells[0]), rtol=0, atol=1e-5)


def test_a_patch_needs_a_centre() -> None:
    with pytest.raises(ValidationError, match="must be odd"):
        MemoryConfig(patch_cells=4)
