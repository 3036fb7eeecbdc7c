"""The lean denoiser: the interface D(z, sigma), extreme noise levels, windows, loss and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from toy_models import TINY, assert_gradient, generator, random_denoiser, random_images

from advrad.denoisers.lean import LeanConfig, LeanDenoiser, Preconditioning, positions
from advrad.errors import ConfigError
from advrad.utils.config import Config

SMALL = {"channels": (8, 16), "blocks": (1, 1)}
WHOLE = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])


def ask(denoiser: LeanDenoiser, z: Tensor, sigma: float, window: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return denoiser.denoise(z, z.new_full((len(z),), sigma), window)


def seen_by_network(denoiser: LeanDenoiser, z: Tensor, sigma: float, window: Tensor | None) -> list[Tensor]:
    seen: list[Tensor] = []
    handle = denoiser.network.register_forward_pre_hook(lambda module, arguments: seen.extend(arguments))
    ask(denoiser, z, sigma, window)
    handle.remove()
    return seen


def test_shapes_and_names() -> None:
    denoiser = random_denoiser()
    assert denoiser.multiple_px == 8
    z = random_images(2, 40)
    recon = ask(denoiser, z, 0.3)
    assert recon.shape == z.shape
    with torch.no_grad():
        assert torch.equal(denoiser(z, torch.full((2,), 0.3)), recon)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_a_row_depends_on_its_own_image_only(sigma: float) -> None:
    denoiser = random_denoiser().double()
    z = random_images(3, dtype=torch.float64)
    together = ask(denoiser, z, sigma)
    for i in range(3):
        torch.testing.assert_close(ask(denoiser, z[i : i + 1], sigma)[0], together[i], rtol=0, atol=1e-12)
    others = z.clone()
    others[1:] = 5.0
    assert torch.equal(ask(denoiser, others, sigma)[0], together[0])


def test_each_row_has_its_own_noise_level() -> None:
    denoiser, z = random_denoiser(), random_images(2)
    with torch.no_grad():
        mixed = denoiser(z, torch.tensor([0.1, 0.6]))
    torch.testing.assert_close(mixed[0], ask(denoiser, z, 0.1)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[1], ask(denoiser, z, 0.6)[1], rtol=0, atol=1e-5)
    assert (mixed[0] - ask(denoiser, z, 0.6)[0]).abs().max() > 1e-2


def test_without_noise_the_image_comes_back() -> None:
    z = 3 * random_images(2) - 1  # also beyond [0, 1]: nothing is clamped
    torch.testing.assert_close(ask(random_denoiser(), z, 1e-6), z, rtol=0, atol=1e-4)


def test_in_very_strong_noise_only_the_prior_is_left() -> None:
    z = random_images(2) + 1e4 * torch.randn(2, 3, 32, 32, generator=generator(5))
    fresh = ask(LeanDenoiser(TINY), z, 1e4)  # the network is still silent
    torch.testing.assert_close(fresh, torch.full_like(z, 0.5), rtol=0, atol=1e-3)
    assert ask(random_denoiser(), z, 1e4).abs().max() < 10


def test_without_statistics_the_coefficients_are_those_of_edm() -> None:
    sigma = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    pre = Preconditioning.of(sigma, torch.full((3, 3, 1, 1), 0.5**2, dtype=torch.float64))
    total = sigma**2 + 0.5**2
    for coefficient, wanted in (
        (pre.c_skip, 0.5**2 / total),
        (pre.c_out, sigma * 0.5 / total.sqrt()),
        (pre.c_in, 1 / total.sqrt()),
    ):
        torch.testing.assert_close(coefficient[:, 0, 0, 0], wanted)
    torch.testing.assert_close(pre.c_noise, 2 * (sigma.log() / 4))


def test_a_zero_network_gives_the_best_linear_guess() -> None:
    """For images of mean 1/2 and standard deviation 1/4 in white noise it is Wiener's."""
    z = random_images(2)
    for sigma in (0.05, 0.25, 1.0):
        share = 0.25**2 / (0.25**2 + sigma**2)
        torch.testing.assert_close(ask(LeanDenoiser(TINY), z, sigma), 0.5 + share * (z - 0.5), rtol=0, atol=1e-5)


def fitted(config: LeanConfig = TINY, **changes: object) -> tuple[LeanDenoiser, Tensor, Tensor]:
    """A zero network with the statistics of a product: left half dark and constant, right half bright and varied."""
    mean = torch.full((1, 3, 32, 32), 0.2)
    mean[..., 16:] = 0.7
    deviation = torch.where(mean > 0.5, 0.1, 0.03)
    images = mean + deviation * torch.randn(4000, 3, 32, 32, generator=generator(3))
    denoiser = LeanDenoiser(config.model_copy(update={"statistics_px": 32} | changes))
    denoiser.fit_statistics([images[:1000], images[1000:]])
    return denoiser, mean, deviation


def test_with_statistics_a_zero_network_gives_the_best_linear_guess() -> None:
    denoiser, mean, deviation = fitted()
    z = random_images(2)
    for sigma in (0.05, 0.25, 1.0):
        share = deviation**2 / (deviation**2 + sigma**2)
        torch.testing.assert_close(ask(denoiser, z, sigma), mean + share * (z - mean), rtol=0, atol=0.02)


def test_with_statistics_the_input_has_unit_variance_everywhere() -> None:
    denoiser, mean, deviation = fitted()
    clean = mean + deviation * torch.randn(32, 3, 32, 32, generator=generator(1))
    for sigma in (0.01, 0.2, 2.0):
        z = clean + sigma * torch.randn(clean.shape, generator=generator(2))
        unusual = seen_by_network(denoiser, z, sigma, None)[0][:, 3:]
        assert float(unusual[..., :16].std()) == pytest.approx(1, abs=0.05)
        assert float(unusual[..., 16:].std()) == pytest.approx(1, abs=0.05)


def test_a_crop_uses_the_statistics_of_its_position() -> None:
    denoiser, *_ = fitted()
    z = random_images(2, 32)
    window = torch.tensor([[-0.5, 0.0, 0.5, 1.0]]).expand(2, 4)  # rows 8 to 24, columns 16 to 32
    part = ask(denoiser, z[:, :, 8:24, 16:32].contiguous(), 0.2, window)
    torch.testing.assert_close(part, ask(denoiser, z, 0.2)[:, :, 8:24, 16:32], rtol=0, atol=1e-5)


def test_a_constant_pixel_keeps_some_variance() -> None:
    denoiser = LeanDenoiser(TINY)
    denoiser.fit_statistics([torch.full((5, 3, 32, 32), 0.5)])
    torch.testing.assert_close(denoiser.mean, torch.zeros_like(denoiser.mean))
    torch.testing.assert_close(denoiser.variance, torch.full_like(denoiser.variance, 0.04**2))


def test_detail_finer_than_the_mean_image_counts_as_variance() -> None:
    """Constant stripes of one pixel vanish from a mean of half the size."""
    stripes = torch.zeros(6, 3, 32, 32)
    stripes[..., ::2] = 1
    denoiser = LeanDenoiser(TINY.model_copy(update={"statistics_px": 8}))
    denoiser.fit_statistics([stripes])
    assert float(denoiser.mean[..., 2:6, 2:6].abs().max()) < 0.1
    assert float(denoiser.variance[..., 2:6, 2:6].min()) > 0.9


def test_with_statistics_the_gradients_are_exact() -> None:
    denoiser = random_denoiser()
    denoiser.fit_statistics([random_images(9, 32, seed=4)])
    denoiser = denoiser.double()
    sigma = torch.tensor([0.1], dtype=torch.float64)
    assert_gradient(lambda z: denoiser.denoise(z, sigma), random_images(1, dtype=torch.float64))


def test_the_input_has_unit_variance_at_every_noise_level() -> None:
    clean = 0.5 + 0.25 * torch.randn(4, 3, 32, 32, generator=generator(1))
    for sigma in (0.01, 0.2, 2.0):
        z = clean + sigma * torch.randn(clean.shape, generator=generator(2))
        x = seen_by_network(random_denoiser(), z, sigma, None)[0]
        assert float(x.std()) == pytest.approx(1, abs=0.05)


def test_a_crop_has_the_positions_of_the_whole_image() -> None:
    whole = positions(WHOLE, 16, 16)
    assert whole[0, 0, 0, 0] == pytest.approx(-1 + 1 / 16) and whole[0, 1, 0, -1] == pytest.approx(1 - 1 / 16)
    top, left, rows, columns = 4, 6, 8, 10
    window = torch.tensor([[top, left, top + rows, left + columns]]) / 16 * 2.0 - 1.0
    part = whole[:, :, top : top + rows, left : left + columns]
    torch.testing.assert_close(positions(window, rows, columns), part, rtol=0, atol=1e-6)


def test_the_network_receives_position_and_magnification() -> None:
    denoiser, z = random_denoiser(), random_images(1, 64)
    _, scalars, place = seen_by_network(denoiser, z, 0.2, None)
    window = torch.tensor([[-0.5, 0.0, 0.5, 1.0]])  # rows 16 to 48, columns 32 to 64
    _, crop_scalars, crop_place = seen_by_network(denoiser, z[:, :, 16:48, 32:64], 0.2, window)
    torch.testing.assert_close(crop_scalars, scalars)
    torch.testing.assert_close(crop_place, place[:, :, 8:24, 16:32])
    _, small_scalars, _ = seen_by_network(denoiser, random_images(1, 32), 0.2, None)
    assert float(scalars[0, 1] - small_scalars[0, 1]) == pytest.approx(1)  # one octave
    assert float(scalars[0, 0] - small_scalars[0, 0]) == 0


def test_no_window_is_the_whole_window() -> None:
    denoiser, z = random_denoiser(), random_images(2)
    torch.testing.assert_close(ask(denoiser, z, 0.2), ask(denoiser, z, 0.2, WHOLE.expand(2, 4)), rtol=1e-5, atol=1e-6)


def loss_of(denoiser: LeanDenoiser, count: int = 3, **changes: Tensor) -> Tensor:
    dtype = next(denoiser.parameters()).dtype
    images = random_images(count, dtype=dtype)
    values = {
        "images": images,
        "corrupted": images,
        "level": torch.linspace(0, 1, count, dtype=dtype),
        "noise": torch.randn(images.shape, generator=generator(7), dtype=dtype),
        "window": None,
    } | changes
    return denoiser.training_loss(**values)


def test_training_loss_is_one_number_per_row_of_that_row() -> None:
    denoiser = random_denoiser().double()
    together = loss_of(denoiser)
    assert together.shape == (3,)
    images = random_images(3, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=generator(7), dtype=torch.float64)
    level = torch.linspace(0, 1, 3, dtype=torch.float64)
    for i in range(3):
        row = slice(i, i + 1)
        alone = denoiser.training_loss(images[row], images[row], level[row], noise[row])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=0)


def test_training_loss_is_the_weighted_error_of_the_clean_image() -> None:
    denoiser = random_denoiser(LeanConfig(**SMALL, sigma_min=0.1, sigma_max=0.4)).double()
    images = random_images(3, dtype=torch.float64)
    corrupted = images.clone()
    corrupted[:, 1, 4:20, 8:16] += 0.1
    noise = torch.randn(images.shape, generator=generator(7), dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)  # levels 0, 1/2, 1 on a logarithmic scale
    got = loss_of(denoiser, corrupted=corrupted)
    with torch.no_grad():
        recon = denoiser.denoise(corrupted + sigma[:, None, None, None] * noise, sigma)
    for i in range(3):
        s = 2 * float(sigma[i])
        weight = (s**2 + 0.5**2) / (s * 0.5) ** 2  # Karras et al. 2022, table 1
        wanted = weight * (2 * (recon[i] - images[i])).square().mean()
        assert float(got[i].detach()) == pytest.approx(float(wanted), rel=1e-9)


def test_training_loss_starts_at_one() -> None:
    """The weight makes all noise levels equally important: a zero network has a loss of 1 at each."""
    images = 0.5 + 0.25 * torch.randn(3, 3, 64, 64, generator=generator(1))
    noise = torch.randn(images.shape, generator=generator(2))
    loss = LeanDenoiser(TINY).training_loss(images, images, torch.tensor([0.0, 0.5, 1.0]), noise)
    torch.testing.assert_close(loss, torch.ones(3), rtol=0.05, atol=0)


def test_training_loss_uses_the_window() -> None:
    denoiser = random_denoiser()
    elsewhere = torch.tensor([[-1.0, -1.0, 0.0, 0.0]]).expand(3, 4)
    assert (loss_of(denoiser) - loss_of(denoiser, window=elsewhere)).abs().min() > 1e-4
    torch.testing.assert_close(loss_of(denoiser), loss_of(denoiser, window=WHOLE.expand(3, 4)))


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_gradient_is_exact(sigma: float) -> None:
    denoiser = random_denoiser().double()
    levels = torch.full((2,), sigma, dtype=torch.float64)
    z = 1.5 * random_images(2, 16, dtype=torch.float64) - 0.2
    assert_gradient(lambda x: denoiser.denoise(x, levels), z)


def test_every_parameter_has_one_optimiser() -> None:
    denoiser = random_denoiser()
    kernels, others = denoiser.optimiser_groups()
    assert {id(p) for p in (*kernels, *others)} == {id(p) for p in denoiser.parameters()}
    assert len(kernels) + len(others) == len(list(denoiser.parameters()))
    assert kernels and all(kernel.ndim == 4 for kernel in kernels)
    outer = {id(denoiser.network.stem.weight), id(denoiser.network.head.weight)}
    assert not outer & {id(kernel) for kernel in kernels}


def test_config_roundtrips_and_refuses() -> None:
    stored = TINY.model_dump(mode="json")
    assert LeanConfig.parse(stored, "here") == TINY
    assert stored["usual_px"] == TINY.statistics_px, "the name in files of earlier versions"
    with pytest.raises(ConfigError, match="here: colour"):
        LeanConfig.parse({"colour": 1}, "here")
    for wrong in ({"stem_px": 0}, {"channels": (8, 0)}, {"sigma_min": 0.0}, {"sigma_max": math.nan}):
        with pytest.raises(ValidationError):
            LeanConfig(**wrong)
    frozen: Config = TINY
    with pytest.raises(ValidationError):
        frozen.stem_px = 4  # type: ignore[attr-defined]
