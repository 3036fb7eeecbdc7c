"""Simplex noise: its moments, its spectrum, its smoothness and its seed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toy_models import generator

from advrad.baselines.simplex import random_crops, simplex_noise


def octave_powers(noise: Tensor) -> list[float]:
    """Mean spectral power per frequency bin, octave by octave from coarse to fine."""
    side = noise.shape[-1]
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    rate = torch.fft.fftfreq(side) * side
    radius = (rate[:, None].square() + rate[None].square()).sqrt()
    edges = [2**i for i in range(1, 6)]
    return [float(power[(radius >= low) & (radius < 2 * low)].mean()) for low in edges]


@pytest.mark.parametrize("octaves", [1, 6])
def test_mean_0_and_variance_1_over_draws(octaves: int) -> None:
    draws = [simplex_noise((32, 3, 48, 48), generator(seed), octaves=octaves, period_px=8) for seed in range(4)]
    noise = torch.stack(draws)
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.var()) == pytest.approx(1, abs=0.03)


def test_power_falls_with_frequency() -> None:
    noise = simplex_noise((4, 3, 128, 128), generator())
    powers = octave_powers(noise)
    assert all(fine < coarse / 2 for coarse, fine in pairwise(powers))
    white = octave_powers(torch.randn(4, 3, 128, 128, generator=generator()))
    assert max(white) < 1.5 * min(white)


def test_one_octave_is_smooth_also_where_cells_meet() -> None:
    def steepest(period_px: float) -> float:
        noise = simplex_noise((2, 1, 64, 64), generator(), octaves=1, period_px=period_px)
        return float(torch.diff(noise, dim=3).abs().amax())

    # Twice as many pixels per cell: half the change between neighbours. A jump would remain.
    assert steepest(200.0) < 0.75 * steepest(100.0) < 0.75**2 * steepest(50.0)


def test_the_seed_decides() -> None:
    one, same, other = (simplex_noise((2, 3, 32, 32), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=0.1)


def test_planes_are_independent() -> None:
    noise = simplex_noise((64, 3, 32, 32), generator(), period_px=8)
    planes = noise.flatten(0, 1).flatten(1)
    planes = planes / planes.norm(dim=1, keepdim=True)
    likeness = planes @ planes.T - torch.eye(len(planes))
    assert float(likeness.abs().mean()) < 0.1
    assert float(likeness.abs().amax()) < 0.7


def test_persistence_is_the_share_of_the_fine_octaves() -> None:
    def roughness(persistence: float) -> float:
        noise = simplex_noise((4, 3, 64, 64), generator(), persistence=persistence)
        return float(torch.diff(noise, dim=3).abs().mean())

    plain, paper, flat = map(roughness, (1e-6, 0.8, 1.0))
    assert 5 * plain < paper < 0.7 * flat


def test_planes_are_cut_from_anywhere_and_turned() -> None:
    canvas = torch.arange(40.0 * 40).view(40, 40)
    planes = random_crops(canvas, torch.empty(40, 3, 8, 8), generator())
    assert planes.shape == (40, 3, 8, 8)
    corners = {tuple(plane[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()) for plane in planes.flatten(0, 1)}
    assert len(corners) > 110
    steps = set()
    for plane in planes.flatten(0, 1):
        assert sorted({abs(float(plane[0, 1] - plane[0, 0])), abs(float(plane[1, 0] - plane[0, 0]))}) == [1, 40]
        assert float(plane.amax() - plane.amin()) == 7 * 41  # an unbroken square
        steps.add((float(plane[0, 1] - plane[0, 0]), float(plane[1, 0] - plane[0, 0])))
    assert len(steps) == 8
    assert torch.equal(planes, random_crops(canvas, torch.empty(40, 3, 8, 8), generator()))
