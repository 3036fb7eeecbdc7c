"""The score's arithmetic: error map against slow loops, filters, pooling, statistics, gradients."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_models import FAR, NEAR, Linear, assert_gradient, generator, random_denoiser, random_images

from advrad.data.transforms import resize
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.score_config import ScoreConfig
from advrad.detectors.scoring import (
    HARMLESS,
    SPREAD_FLOOR,
    MapStatistics,
    ceiling_of,
    divide_by_image_mean,
    error_map,
    map_statistics,
    mean_filter,
    normalise,
    pool,
    scale_errors,
    smooth,
    standardise,
    view_error_maps,
)

Floats = npt.NDArray[np.float64]

# --- the definition, by explicit loops -------------------------------------------------------------------------------


def area_means(values: Floats, side: int) -> Floats:
    channels, height, width = values.shape
    out = np.zeros((channels, height // side, width // side))
    for c in range(channels):
        for i in range(height // side):
            for j in range(width // side):
                out[c, i, j] = values[c, i * side : (i + 1) * side, j * side : (j + 1) * side].mean()
    return out


def neighbours(index: int, factor: int, count: int) -> tuple[int, int, float]:
    """The two small pixels whose centres lie about a large pixel's centre, and the weight of the second."""
    at = max((index + 0.5) / factor - 0.5, 0.0)
    first = min(math.floor(at), count - 1)
    return first, min(first + 1, count - 1), at - first


def bilinear(values: Floats, factor: int) -> Floats:
    rows, columns = values.shape
    out = np.zeros((rows * factor, columns * factor))
    for i in range(rows * factor):
        top, bottom, down = neighbours(i, factor, rows)
        for j in range(columns * factor):
            left, right, across = neighbours(j, factor, columns)
            upper = (1 - across) * values[top, left] + across * values[top, right]
            lower = (1 - across) * values[bottom, left] + across * values[bottom, right]
            out[i, j] = (1 - down) * upper + down * lower
    return out


def window_means(values: Floats, width: int) -> Floats:
    reach = width // 2
    out = np.zeros_like(values)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = values[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1].mean()
    return out


def slow_error_map(image: Floats, recon: Floats, width: int) -> Floats:
    total = np.zeros(image.shape[1:])
    for level in range(4):
        side = 2**level
        small, small_recon = area_means(image, side), area_means(recon, side)
        error = ((small - small_recon) ** 2).mean(0)
        total += bilinear(error, side) / 4
    return window_means(total, width)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    width=st.sampled_from([1, 3, 5, 9]),
    seed=st.integers(0, 10**6),
)
def test_error_map_is_its_definition(rows: int, columns: int, width: int, seed: int) -> None:
    shape = (1, 3, 8 * rows, 8 * columns)
    draws = generator(seed)
    images = torch.rand(shape, generator=draws, dtype=torch.float64)
    recon = 2 * torch.rand(shape, generator=draws, dtype=torch.float64) - 0.5
    got = error_map(images, recon, width)
    assert got.shape == (1, 1, *shape[2:])
    slow = slow_error_map(images[0].numpy(), recon[0].numpy(), width)
    np.testing.assert_allclose(got[0, 0].numpy(), slow, rtol=1e-10, atol=1e-14)


# --- what follows from the definition --------------------------------------------------------------------------------


def two_differences(seed: int, size_px: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    draws = generator(seed)
    shape = (2, 3, size_px, size_px)
    base, one, other = (torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(3))
    return base, one, other


seeds = st.integers(0, 10**6)
widths = st.sampled_from([1, 3, 7])


@settings(max_examples=10, deadline=None)
@given(seed=seeds, width=widths, factor=st.floats(-100, 100))
def test_error_is_a_quadratic_form_of_the_difference(seed: int, width: int, factor: float) -> None:
    base, one, other = two_differences(seed)
    zero = torch.zeros_like(base)

    def error(difference: Tensor) -> Tensor:
        return error_map(difference, zero, width)

    torch.testing.assert_close(error_map(base + one, base, width), error(one))  # only the difference counts
    torch.testing.assert_close(error_map(base, base + one, width), error(one))
    torch.testing.assert_close(error(factor * one), factor**2 * error(one))
    torch.testing.assert_close(error(one + other) + error(one - other), 2 * error(one) + 2 * error(other))
    assert (error(one) > 0).all()
    assert not error(zero).any()


@settings(max_examples=20, deadline=None)
@given(difference=st.floats(-2, 2), width=widths)
def test_a_constant_difference_gives_its_square_up_to_the_border(difference: float, width: int) -> None:
    images = random_images(1, 24, dtype=torch.float64)
    got = error_map(images, images + difference, width)
    torch.testing.assert_close(got, torch.full_like(got, difference**2), rtol=1e-9, atol=1e-12)


def test_rows_do_not_mix() -> None:
    base, one, _ = two_differences(3)
    both = error_map(base, one, 3)
    torch.testing.assert_close(error_map(base[1:], one[1:], 3), both[1:], rtol=0, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, width=st.sampled_from([1, 3, 5, 21, 33]), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_mean_filter_cuts_its_window_at_the_border(seed: int, width: int, rows: int, columns: int) -> None:
    values = torch.rand(1, 1, rows, columns, generator=generator(seed), dtype=torch.float64)
    got = mean_filter(values, width)
    np.testing.assert_allclose(got[0, 0].numpy(), window_means(values[0, 0].numpy(), width), rtol=1e-10)


def test_smoothing_spreads_a_bright_cell_evenly() -> None:
    speck = torch.zeros(2, 1, 21, 21, dtype=torch.float64)
    speck[0, 0, 10, 10] = 25.0
    spread = smooth(speck, 5)
    tent = torch.tensor([0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0], dtype=torch.float64) / 5
    torch.testing.assert_close(spread[0, 0, 5:16, 5:16], torch.outer(tent, tent))
    assert float(spread[0].sum()) == pytest.approx(25) and float(spread[1].abs().sum()) == 0
    assert torch.equal(smooth(speck, 1), speck)


# --- pooling, statistics, normalisation ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=seeds, share=st.floats(0, 1), rows=st.integers(1, 9), columns=st.integers(1, 9), ties=st.booleans())
def test_pool_is_the_mean_of_the_largest(seed: int, share: float, rows: int, columns: int, ties: bool) -> None:
    maps = torch.randn(3, 1, rows, columns, generator=generator(seed), dtype=torch.float64)
    maps = maps.round() if ties else maps
    count = max(1, round(share * rows * columns))
    wanted = [np.sort(row.numpy().ravel())[::-1][:count].mean() for row in maps]
    np.testing.assert_allclose(pool(maps, share).numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_pool_from_the_maximum_to_the_mean() -> None:
    maps = torch.randn(4, 1, 8, 8, generator=generator(0))
    assert torch.equal(pool(maps, 0.0), maps.amax((1, 2, 3)))
    torch.testing.assert_close(pool(maps, 1.0), maps.mean((1, 2, 3)))
    assert (pool(maps, 0.1) < pool(maps, 0.0)).all() and (pool(maps, 0.1) > pool(maps, 1.0)).all()


def test_statistics_are_mean_and_floored_deviation() -> None:
    maps = torch.rand(7, 1, 8, 8, generator=generator(0), dtype=torch.float64) ** 2
    maps[:, :, 0, 0] = 0.25  # by luck there is no spread here
    mean, spread = map_statistics(maps)
    deviation = np.std(maps.numpy(), axis=0, ddof=1)
    np.testing.assert_allclose(mean[0].numpy(), maps.numpy().mean(0))
    np.testing.assert_allclose(spread[0].numpy(), deviation + SPREAD_FLOOR * deviation.mean())
    assert float(spread[0, 0, 0, 0]) > 0


def test_a_tolerant_spread_forgives_what_a_harmless_change_does() -> None:
    """Every pixel off by HARMLESS, in the worst direction: the error rises by no more than one spread."""
    error = torch.rand(9, 1, 8, 8, generator=generator(0), dtype=torch.float64) * 0.1
    error = error[:1].expand(9, -1, -1, -1)  # normal images all alike
    mean, spread = map_statistics(error, "noise_tolerant")
    moved = (error[:1].sqrt() + HARMLESS).square()
    torch.testing.assert_close(normalise(moved, mean, spread, "noise_tolerant"), torch.ones_like(moved))
    _, plain = map_statistics(error, "spread")
    assert (normalise(moved, mean, plain, "spread") > 1e6).all()


def test_equal_maps_leave_the_spread_above_zero() -> None:
    mean, spread = map_statistics(torch.full((5, 1, 8, 8), 0.5))
    assert (spread > 0).all()
    assert normalise(torch.full((1, 1, 8, 8), 0.5), mean, spread, "spread").isfinite().all()


def test_normalisations_by_name() -> None:
    maps = torch.rand(2, 1, 8, 8, generator=generator(0))
    mean, spread = torch.full((1, 1, 8, 8), 0.5), torch.full((1, 1, 8, 8), 0.25)
    assert torch.equal(normalise(maps, mean, spread, "none"), maps)
    assert torch.equal(normalise(maps, mean, spread, "mean"), (maps - 0.5).abs())
    spread_way = normalise(maps, mean, spread, "spread")
    assert torch.equal(spread_way, (maps - 0.5) / 0.25)
    assert spread_way.min() < 0  # nothing is cut off


# --- views -----------------------------------------------------------------------------------------------------------


def test_a_view_is_resized_and_drawn_as_often_as_configured() -> None:
    denoiser = Linear(0.5)
    config = ScoreConfig(views=(FAR,), filter_px=5, draws=3)
    (maps,), recon = view_error_maps(denoiser, random_images(2), FAR, config, generator(1))
    assert maps.shape == (2, 1, 16, 16) and recon.shape == (2, 3, 16, 16)
    assert len(denoiser.asked) == 3
    view = resize(random_images(2), 16)
    noises = [z - view for z, _ in denoiser.asked]
    assert not torch.equal(noises[0], noises[1])
    for noise in noises:
        assert float(noise.std()) == pytest.approx(FAR.sigma, rel=0.1)
        torch.testing.assert_close(noise[0], noise[1], rtol=0, atol=1e-6)
    answers = [0.5 * z for z, _ in denoiser.asked]
    torch.testing.assert_close(recon, torch.stack(answers).mean(0))
    # The maps are averaged, not the reconstructions: errors of single draws count in full.
    torch.testing.assert_close(maps, torch.stack([error_map(view, answer, 5) for answer in answers]).mean(0))
    assert (maps > error_map(view, recon, 5)).all()


def test_scales_are_averaged_or_stay_separate() -> None:
    images = random_images(2)
    averaged, apart = (
        view_error_maps(
            Linear(0.5), images, FAR, ScoreConfig(views=(FAR,), scales=scales, filter_px=3, draws=2), generator(1)
        )
        for scales in ("averaged", "separate")
    )
    torch.testing.assert_close(averaged[1], apart[1])
    assert [maps.shape[-1] for maps in apart[0]] == [16, 8, 4, 2]
    view, draws = resize(images, 16), generator(1)
    recons = [reconstruct(Linear(0.5), view, FAR.sigma, draws) for _ in range(2)]
    for level, maps in enumerate(apart[0]):
        wanted = torch.stack([scale_errors(view, recon)[level] for recon in recons]).mean(0)
        torch.testing.assert_close(maps, mean_filter(wanted, 3))
    (together,) = averaged[0]
    torch.testing.assert_close(together, torch.stack([error_map(view, recon, 3) for recon in recons]).mean(0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), gain=st.floats(0.01, 100))
def test_relative_maps_do_not_depend_on_the_roughness(seed: int, gain: float) -> None:
    maps = torch.rand(3, 1, 6, 5, generator=generator(seed), dtype=torch.float64)
    got = divide_by_image_mean(maps, 1e9)
    torch.testing.assert_close(divide_by_image_mean(gain * maps, 1e9), got)
    torch.testing.assert_close(got.mean((1, 2, 3)), torch.ones(3, dtype=torch.float64))
    normal = MapStatistics(torch.zeros(1, 1, 6, 5), torch.ones(1, 1, 6, 5), ceiling=1e-9)
    assert torch.equal(standardise(maps, normal, ScoreConfig(views=(NEAR,)))[1], maps), (
        "absolute errors stay as they are"
    )


def test_error_all_over_is_large_above_the_ceiling() -> None:
    """An image of another product must not pass for normal because it is wrong everywhere alike."""
    normals = 0.01 + 0.01 * torch.rand(8, 1, 16, 16, generator=generator(0), dtype=torch.float64)
    ceiling = ceiling_of(normals)
    assert ceiling == pytest.approx(1.2 * float(normals.mean((1, 2, 3)).max()))
    wrong = divide_by_image_mean(100 * normals, ceiling)
    assert wrong.mean() > 20 and divide_by_image_mean(normals, ceiling).max() < 3
    nothing = torch.zeros(1, 1, 4, 4)
    assert torch.equal(divide_by_image_mean(nothing, ceiling), nothing)


def test_a_view_takes_as_many_steps_as_configured() -> None:
    denoiser = Linear(0.5)
    view_error_maps(denoiser, random_images(1), NEAR, ScoreConfig(views=(NEAR,), steps=4, draws=2), generator(1))
    assert len(denoiser.asked) == 8


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [0, 1])
def test_gradient_of_the_error_map_is_exact_in_both_inputs(argument: int) -> None:
    inputs = [random_images(1, 16, seed, torch.float64) for seed in (1, 2)]

    def function(changed: Tensor) -> Tensor:
        images, recon = (changed if i == argument else x for i, x in enumerate(inputs))
        return error_map(images, recon, 3)

    assert_gradient(function, inputs[argument])


@pytest.mark.parametrize("how", ["none", "mean", "spread"])
def test_gradient_of_normalise_is_exact(how: str) -> None:
    mean, spread = random_images(1, 8, 1, torch.float64)[:, :1], random_images(1, 8, 2, torch.float64)[:, :1] + 0.1
    maps = random_images(2, 8, 3, torch.float64)[:, :1]
    assert_gradient(lambda x: normalise(x, mean, spread, how), maps)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_gradient_of_pool_is_exact(share: float) -> None:
    assert_gradient(lambda x: pool(x, share), random_images(2, 8, 3, torch.float64)[:, :1])


@pytest.mark.parametrize("stopped", ["images", "recon"])
def test_a_detached_side_of_the_error_is_caught(stopped: str) -> None:
    """Both paths of the image count: as the thing compared and as what is reconstructed."""
    denoiser = random_denoiser().double()

    def function(x: Tensor) -> Tensor:
        recon = denoiser(x, x.new_full((len(x),), 0.3))
        return error_map(x.detach() if stopped == "images" else x, recon.detach() if stopped == "recon" else recon)

    with pytest.raises(AssertionError, match="finite difference"):
        assert_gradient(function, random_images(1, 16, dtype=torch.float64))
