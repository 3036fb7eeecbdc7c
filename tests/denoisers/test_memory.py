"""The memory denoiser: the posterior mean in closed form, its limits, its gradient and its interface."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_models import generator, random_images

from advrad.denoisers import posterior_mean as engine
from advrad.denoisers.factory import build_denoiser
from advrad.denoisers.memory import MemoryDenoiser, MemoryDenoiserConfig
from advrad.denoisers.sampling import reconstruct
from advrad.errors import ConfigError, DataError

Array = npt.NDArray[np.float64]
SMALL = MemoryDenoiserConfig(side_cells=8, patch_cells=3, window_cells=1)


def slow_posterior_mean(z: Array, sigma: float, memory: Array, patch: int, window: int) -> Array:
    """The formula, patch by patch: (3, side, side) from the image and (n, 3, side, side) memory images."""
    side = z.shape[1]
    sites = range(side - patch + 1)
    blending = np.array([math.sin(math.pi * (i + 0.5) / patch) ** 2 for i in range(patch)])
    weight = blending[:, None] * blending
    total, cover = np.zeros_like(z), np.zeros_like(z)
    for y, x in itertools.product(sites, sites):
        query = z[:, y : y + patch, x : x + patch]
        patches = np.array(
            [
                sheet[:, v : v + patch, u : u + patch]
                for sheet in memory
                for v, u in itertools.product(sites, sites)
                if abs(v - y) <= window and abs(u - x) <= window
            ]
        )
        logits = -((patches - query) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
        weights = np.exp(logits - logits.max())
        estimate = np.einsum("m,mcij->cij", weights / weights.sum(), patches)
        total[:, y : y + patch, x : x + patch] += weight * estimate
        cover[:, y : y + patch, x : x + patch] += weight
    return total / cover


def fitted(count: int = 3, config: MemoryDenoiserConfig = SMALL, seed: int = 1) -> MemoryDenoiser:
    return MemoryDenoiser.fit(random_images(count, config.side_cells, seed), config)


def ask(denoiser: MemoryDenoiser, z: Tensor, sigma: float) -> Tensor:
    with torch.no_grad():
        return denoiser.denoise(z, z.new_full((len(z),), sigma))


@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(3, 7),
    patch=st.sampled_from([1, 3, 5]),
    window=st.integers(0, 2),
    count=st.integers(1, 3),
    sigma=st.floats(0.02, 2.0),
    seed=st.integers(0, 100),
)
def test_it_is_the_posterior_mean(side: int, patch: int, window: int, count: int, sigma: float, seed: int) -> None:
    config = MemoryDenoiserConfig(side_cells=side, patch_cells=min(patch, 3 if side < 5 else 5), window_cells=window)
    denoiser = fitted(count, config, seed)
    z = random_images(1, side, seed + 1, torch.float64) * 1.4 - 0.2
    memory = denoiser.sheets.double().numpy() / 255
    expected = slow_posterior_mean(z[0].numpy(), sigma, memory, config.patch_cells, window)
    np.testing.assert_allclose(ask(denoiser, z, sigma)[0].numpy(), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ask(denoiser, z.float(), sigma)[0].numpy(), expected, rtol=0, atol=2e-4)


def test_blocks_and_recomputed_distances_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, z = fitted(5), random_images(2, 8, dtype=torch.float64)
    expected = ask(denoiser, z, 0.2)
    monkeypatch.setattr(engine, "_BLOCK_VALUES", 2 * 3 * 8 * 8)
    monkeypatch.setattr(engine, "_KEPT_VALUES", 0)
    torch.testing.assert_close(ask(denoiser, z, 0.2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.0])
def test_the_gradient_is_that_of_finite_differences(sigma: float) -> None:
    config = MemoryDenoiserConfig(side_cells=6, patch_cells=3, window_cells=1, gains=(0.9, 1.0))
    denoiser = fitted(3, config)
    z = random_images(2, 12, dtype=torch.float64).requires_grad_()
    levels = torch.tensor([sigma, 1.5 * sigma], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: denoiser.denoise(z, levels), (z,), atol=1e-6, fast_mode=True)


def test_without_noise_it_returns_the_nearest_patch() -> None:
    # One patch as large as the image, so that no patches overlap.
    config = MemoryDenoiserConfig(side_cells=5, patch_cells=5, window_cells=0)
    denoiser = fitted(6, config)
    memory = denoiser.sheets.float() / 255
    z = random_images(4, 5, seed=9)
    nearest = torch.cdist(z.flatten(1), memory.flatten(1)).argmin(1)
    for sigma in (1e-3, 1e-6, 1e-12):
        torch.testing.assert_close(ask(denoiser, z, sigma), memory[nearest], rtol=0, atol=1e-6)


def test_a_normal_image_returns_as_it_is_without_noise() -> None:
    denoiser = fitted(4)
    memory = denoiser.sheets.float() / 255
    torch.testing.assert_close(ask(denoiser, memory, 1e-4), memory, rtol=0, atol=1e-6)


def test_with_much_noise_it_returns_the_mean_of_the_window() -> None:
    config = MemoryDenoiserConfig(side_cells=8, patch_cells=3, window_cells=0)
    denoiser = fitted(5, config)
    mean = (denoiser.sheets.float() / 255).mean(0)
    torch.testing.assert_close(ask(denoiser, random_images(1, 8), 1e4)[0], mean, rtol=0, atol=1e-5)
    # Constant copies of different brightness are told apart only where the noise is weaker than their difference.
    flat = torch.stack([torch.full((3, 8, 8), level) for level in (0.2, 0.6)])
    both = MemoryDenoiser.fit(flat, SMALL)
    assert float(ask(both, flat[:1], 100.0).mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(ask(both, flat[:1], 0.01).mean()) == pytest.approx(0.2, abs=1e-3)


def test_a_row_depends_on_its_own_image_and_level_only() -> None:
    denoiser, z = fitted(), random_images(3, 16)
    levels = torch.tensor([0.05, 0.2, 0.8])
    with torch.no_grad():
        together = denoiser.denoise(z, levels)
        for row in range(3):
            assert torch.equal(denoiser.denoise(z[row : row + 1], levels[row : row + 1])[0], together[row])
    assert ask(denoiser, z[:0], 0.2).shape == (0, 3, 16, 16)


def test_cells_of_several_pixels_have_less_noise() -> None:
    denoiser, cells = fitted(), random_images(1, 8)
    large = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = ask(denoiser, cells, 0.1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(ask(denoiser, large, 0.2), expected, rtol=0, atol=1e-6)


def test_gains_add_brighter_and_darker_copies() -> None:
    normal = random_images(1, 8) * 0.5 + 0.2
    bright = 1.2 * (normal * 255).round() / 255
    without = MemoryDenoiser.fit(normal, SMALL)
    with_gains = MemoryDenoiser.fit(normal, SMALL.model_copy(update={"gains": (1.0, 1.2)}))
    assert float((ask(without, bright, 1e-3) - bright).abs().mean()) > 0.05
    torch.testing.assert_close(ask(with_gains, bright, 1e-3), bright, rtol=0, atol=1e-6)


def test_reconstruction_in_one_step_and_in_several() -> None:
    denoiser, z = fitted(), random_images(2, 8).requires_grad_()
    for steps in (1, 3):
        recon = reconstruct(denoiser, z, 0.3, generator(), steps)
        (gradient,) = torch.autograd.grad(recon.square().sum(), z)
        assert recon.shape == z.shape
        assert float(gradient.abs().max()) > 0


def test_half_precision_is_computed_in_float32() -> None:
    denoiser, z = fitted(), random_images(1, 8)
    expected = ask(denoiser, z, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ask(denoiser, z, 0.2), expected)
    assert ask(denoiser, z.bfloat16(), 0.2).dtype == torch.bfloat16


def test_it_has_no_parameters_and_measures_its_loss() -> None:
    denoiser, normal = fitted(), random_images(2, 8, seed=1)
    assert not list(denoiser.parameters())
    assert denoiser.device == torch.device("cpu")
    quiet = denoiser.training_loss(normal, normal, torch.zeros(2), torch.zeros_like(normal))
    noisy = denoiser.training_loss(normal, normal, torch.ones(2), torch.randn(normal.shape, generator=generator()))
    assert quiet.shape == (2,)
    assert float(quiet.max()) < 1e-4 < float(noisy.min())


def test_statistics_fill_the_memory_from_batches() -> None:
    denoiser, normal = MemoryDenoiser(SMALL), random_images(5, 16)
    denoiser.fit_statistics(iter([normal[:3], normal[3:]]))
    assert torch.equal(denoiser.sheets, MemoryDenoiser.fit(normal, SMALL).sheets)
    assert denoiser.config.sheets == 5


def test_state_loads_into_a_blank_denoiser_of_its_configuration() -> None:
    denoiser, z = fitted(), random_images(1, 8)
    blank = build_denoiser(denoiser.config)
    blank.load_state_dict(denoiser.state_dict())
    assert {name: value.dtype for name, value in denoiser.state_dict().items()} == {"sheets": torch.uint8}
    with torch.no_grad():
        assert torch.equal(blank(z, torch.tensor([0.2])), ask(denoiser, z, 0.2))


def test_wrong_arguments_are_named() -> None:
    denoiser = fitted()
    with pytest.raises(ConfigError, match="memory of the denoiser is empty"):
        ask(MemoryDenoiser(SMALL), random_images(1, 8), 0.1)
    with pytest.raises(ConfigError, match="multiple of 8 px, not 12 x 12"):
        ask(denoiser, random_images(1, 12), 0.1)
    whole = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    z, sigma = random_images(1, 8), torch.tensor([0.1])
    assert torch.equal(denoiser.denoise(z, sigma, whole), denoiser.denoise(z, sigma))
    with pytest.raises(ConfigError, match="whole images only"):
        denoiser.denoise(z, sigma, whole / 2)
    with pytest.raises(ConfigError, match="at most 8") as error:
        MemoryDenoiser(MemoryDenoiserConfig(side_cells=8, patch_cells=9))
    assert error.value.option == "patch_cells"
    with pytest.raises(ConfigError, match="sheets: expected"):
        MemoryDenoiser(SMALL, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match="no normal images"):
        MemoryDenoiser.fit(iter([]), SMALL)
    with pytest.raises(ConfigError, match="must be odd"):
        MemoryDenoiserConfig.parse({"patch_cells": 4})
