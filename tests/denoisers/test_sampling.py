"""Reconstruction: sources of noise, noise levels, one step and several, gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_models import Linear, assert_gradient, generator, random_denoiser, random_images

from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import GeneratorNoise, StoredNoise, draw_noise, noise_levels, reconstruct


def test_rows_share_one_draw_that_depends_on_the_seed() -> None:
    noise = draw_noise(random_images(3), generator(4))
    assert noise.shape == (1, 3, 32, 32)
    assert torch.equal(noise, draw_noise(random_images(1, seed=9), generator(4)))
    assert not torch.equal(noise, draw_noise(random_images(3), generator(5)))
    assert abs(float(noise.mean())) < 0.1 and float(noise.std()) == pytest.approx(1, abs=0.05)


def test_independent_rows_have_noise_of_their_own() -> None:
    noise = draw_noise(random_images(3), generator(4), independent=True)
    assert noise.shape == (3, 3, 32, 32)
    assert not torch.equal(noise[0], noise[1])
    denoiser = Linear(1.0)
    reconstruct(denoiser, random_images(3), 0.5, generator(4), steps=2, independent=True)
    torch.testing.assert_close(denoiser.asked[0][0] - random_images(3), 0.5 * noise)


def test_the_draw_does_not_depend_on_the_arithmetic() -> None:
    double = draw_noise(random_images(1, dtype=torch.float64), generator(4))
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), draw_noise(random_images(1), generator(4)))


@pytest.mark.parametrize("steps", [1, 3])
def test_every_source_gives_the_same_reconstruction(steps: int) -> None:
    denoiser, images, source = random_denoiser(), random_images(2), generator(4)
    kept = StoredNoise([draw_noise(images, source) for _ in range(steps)])
    expected = reconstruct(denoiser, images, 0.3, generator(4), steps)
    assert torch.equal(reconstruct(denoiser, images, 0.3, kept, steps), expected)
    assert torch.equal(reconstruct(denoiser, images, 0.3, GeneratorNoise(generator(4)), steps), expected)


def test_stored_noise_that_is_used_up_or_of_another_shape_is_refused() -> None:
    kept = StoredNoise([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)])
    assert torch.equal(draw_noise(torch.ones(2, 3, 8, 8), kept), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"has shape \(1, 3, 8, 8\), but noise of shape \(2, 3, 8, 8\) is needed"):
        draw_noise(torch.ones(2, 3, 8, 8), kept, independent=True)
    with pytest.raises(ValueError, match="no stored noise is left"):
        draw_noise(torch.ones(1, 3, 8, 8), kept)


@settings(deadline=None)
@given(sigma=st.floats(0.001, 5), steps=st.integers(1, 50))
def test_levels_fall_from_sigma_to_nothing(sigma: float, steps: int) -> None:
    levels = noise_levels(sigma, steps)
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(sigma) and levels[-1] == 0
    assert all(high > low for high, low in itertools.pairwise(levels))


def test_levels_are_denser_near_zero() -> None:
    levels = noise_levels(0.5, 9)
    assert levels[4] < (levels[0] + levels[8]) / 2
    assert levels[8] == pytest.approx(0.02)


def test_one_shot_is_one_call_on_image_plus_noise() -> None:
    denoiser, images = Linear(0.7, 0.1), random_images(2)
    recon = reconstruct(denoiser, images, 0.8, generator(3))
    ((z, sigma),) = denoiser.asked
    expected = images + 0.8 * draw_noise(images, generator(3))
    assert torch.equal(z, expected)
    assert expected.min() < -0.5 and expected.max() > 1.5, "the noise must leave the range, unclamped"
    assert sigma.tolist() == pytest.approx([0.8, 0.8])
    assert torch.equal(recon, denoiser.a * expected + 0.1)


@pytest.mark.parametrize("steps", [2, 5])
def test_every_noise_level_is_used_once(steps: int) -> None:
    denoiser, images = Linear(0.7), random_images(2)
    reconstruct(denoiser, images, 0.5, generator(3), steps)
    assert [float(sigma[0]) for _, sigma in denoiser.asked] == pytest.approx(noise_levels(0.5, steps)[:-1])


class Knows(Denoiser):
    """Knows the clean image, so that the noise in its input can be measured."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean
        self.noise: list[tuple[float, float]] = []

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        self.noise.append((float(sigma[0]), float((z - self.clean).std())))
        return self.clean


@pytest.mark.parametrize("fresh", [0.0, 0.5, 1.0])
def test_the_noise_left_in_each_step_has_the_stated_level(fresh: float) -> None:
    images = random_images(1, 64)
    denoiser = Knows(images)
    recon = reconstruct(denoiser, images, 0.6, generator(3), 6, fresh)
    assert torch.equal(recon, images)
    assert len(denoiser.noise) == 6
    for said, measured in denoiser.noise:
        assert measured == pytest.approx(said, rel=0.05)


def test_ancestral_sampling_is_the_ddpm_posterior() -> None:
    """At fresh 1 the state after a step is drawn from q(x_t-1 | x_t, x_0), here in noise-level form."""
    denoiser, images = Linear(0.0, 0.5), random_images(1)
    reconstruct(denoiser, images, 0.5, generator(3), 3)
    levels = noise_levels(0.5, 3)
    draws = generator(3)
    z = images + levels[0] * draw_noise(images, draws)
    for (seen, _), now, after in zip(denoiser.asked[1:], levels[:-2], levels[1:-1], strict=True):
        ratio = (after / now) ** 2
        mean = (1 - ratio) * 0.5 + ratio * z
        z = mean + after * np.sqrt(1 - ratio) * draw_noise(images, draws)
        torch.testing.assert_close(seen, z, rtol=0, atol=1e-5)


def test_deterministic_sampling_draws_once() -> None:
    denoiser, images = Linear(0.0, 0.5), random_images(1)
    reconstruct(denoiser, images, 0.5, generator(3), 3, fresh=0.0)
    levels = noise_levels(0.5, 3)
    z, _ = denoiser.asked[0]
    for index in (1, 2):
        expected = 0.5 + levels[index] / levels[index - 1] * (z - 0.5)
        z, _ = denoiser.asked[index]
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_row_depends_on_its_own_image_only(steps: int) -> None:
    denoiser, images = random_denoiser().double(), random_images(3, dtype=torch.float64)
    with torch.no_grad():
        together = reconstruct(denoiser, images, 0.3, generator(1), steps)
        for i in range(3):
            alone = reconstruct(denoiser, images[i : i + 1], 0.3, generator(1), steps)
            torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_is_exact(steps: int) -> None:
    denoiser = random_denoiser().double()
    # Pixels at the ends of the range have a gradient like any other.
    images = random_images(1, 16, dtype=torch.float64).round()
    assert_gradient(lambda x: reconstruct(denoiser, x, 0.3, generator(1), steps), images)


def test_a_detached_step_is_caught() -> None:
    """The check of gradients itself: a detached step must not pass."""
    denoiser = random_denoiser().double()

    def stopped(x: Tensor) -> Tensor:
        return reconstruct(denoiser, x + 0.5 * (x.detach() - x), 0.3, generator(1))

    with pytest.raises(AssertionError, match="finite difference"):
        assert_gradient(stopped, random_images(1, 16, dtype=torch.float64))


def test_the_mode_of_the_denoiser_is_unchanged() -> None:
    for training in (True, False):
        denoiser = random_denoiser().train(training)
        assert reconstruct(denoiser, random_images(1), 0.3, generator(1)).requires_grad
        assert denoiser.training is training
