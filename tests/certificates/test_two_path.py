"""The two-path certificate against searches for what it excludes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toy_models import FAR, NEAR, TINY, Linear, detector, generator, random_images, statistics

from advrad.certificates import two_path as twopath
from advrad.certificates.operator_norms import MapNorms, map_norms
from advrad.certificates.two_path import TwoPath, score_bounds
from advrad.data.resize_norm import resize_norm
from advrad.data.transforms import resize
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import MapStatistics, combine_scales, mean_filter, scale_errors, standardise

Score = Callable[[Tensor], Tensor]


def maps_of(views: Tensor, recon: Tensor, config: ScoreConfig) -> list[Tensor]:
    return [mean_filter(m, config.filter_px) for m in combine_scales(scale_errors(views, recon), config.scales)]


def score_of(model: AdvRAD, view_config: NoiseView, views: Tensor, recon: Tensor) -> Tensor:
    """The part of the score from one view, (b,), for a fixed reconstruction, (1, c, h, w)."""
    config = model.detector_config.score
    maps = maps_of(views, recon.expand_as(views), config)
    return torch.stack([standardise(m, model.statistics(view_config, i), config)[0] for i, m in enumerate(maps)]).mean(
        0
    )


def searched(score: Score, at: Tensor, start: Tensor, radius: float, sign: int, steps: int = 14) -> float:
    """Worst score found at exactly this distance: ascent from the start and from random directions.

    Args:
        score: images (b, c, h, w) -> (b,).
        at: (1, c, h, w).
        start: (1, c, h, w) a direction.
        radius: l2.
        sign: 1 for the largest score, -1 for the smallest.
        steps: of the ascent.
    """
    draws = generator(7)
    moves = torch.cat([sign * start, *(torch.randn(at.shape, generator=draws, dtype=at.dtype) for _ in range(2))])
    best = -torch.inf
    for step in range(steps + 1):
        moves = (moves * (radius / moves.flatten(1).norm(dim=1).view(-1, 1, 1, 1))).detach().requires_grad_()
        scores = sign * score(at + moves)
        best = max(best, float(scores.detach().max()))
        (slope,) = torch.autograd.grad(scores.sum(), moves)
        size = radius * (1.0 if step < steps // 2 else 0.3)
        with torch.no_grad():
            moves = moves + size * slope / slope.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
    return sign * best


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("scales", ["averaged", "separate"])
def test_no_search_leaves_the_interval_and_some_leave_that_of_half_norms(scales: str, relative: bool) -> None:
    left = {"cells": 0, "sums": 0}
    ways, poolings = ("none", "mean", "spread", "noise_tolerant"), (0.0, 0.05, 1.0)
    for number, (way, pooling) in enumerate(itertools.product(ways, poolings)):
        view_config, filter_px = (NEAR, FAR)[number % 2], (1, 3, 7)[number // 2 % 3]
        config = ScoreConfig(
            views=(view_config,),
            scales=scales,
            normalise_by_image_mean=relative,
            normalisation=way,
            filter_px=filter_px,
            pooling=pooling,
        )
        model = detector(config, calibrated=False)
        index = number % len(config.map_sizes)
        norms, normal = map_norms(view_config, config)[index], model.statistics(view_config, index)
        view = 0.3 + 0.3 * random_images(1, view_config.view_px, seed=number)
        with torch.no_grad():
            recon = reconstruct(model.denoiser, view, view_config.sigma, generator(number)).double()
        view = view.double()  # so that rounding has no say
        false = {
            "cells": replace(norms, cells=norms.cells / 2),
            "sums": replace(norms, share=norms.share / 4),
        }

        def score(
            views: Tensor,
            config: ScoreConfig = config,
            index: int = index,
            normal: MapStatistics = normal,
            recon: Tensor = recon,
        ) -> Tensor:
            return standardise(maps_of(views, recon.expand_as(views), config)[index], normal, config)[0]

        for radius in (0.1, 1.0):
            low, high = (searched(score, view, view - recon, radius, sign) for sign in (-1, 1))
            maps = maps_of(view, recon, config)[index]
            lower, upper = score_bounds(maps, norms, normal, config, radius)
            assert float(lower) <= low <= high <= float(upper), (way, pooling, radius)
            for name, wrong in false.items():
                lower, upper = score_bounds(maps, wrong, normal, config, radius)
                left[name] += bool(low < float(lower) or high > float(upper))
    assert min(left.values()) > 1, f"the search is too weak to find a wrong norm: {left}"


def one_map(filter_px: int, pooling: float, seed: int = 0) -> tuple[Tensor, MapNorms, ScoreConfig, MapStatistics]:
    """Differences at the finest scale alone, (1, 3, 16, 16), and what goes with them."""
    config = ScoreConfig(views=(FAR,), scales="separate", filter_px=filter_px, pooling=pooling)
    difference = 0.3 * torch.randn(1, 3, 16, 16, generator=generator(seed), dtype=torch.float64)
    plain = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    return difference, map_norms(FAR, config)[0], config, MapStatistics(plain, plain + 1)


@pytest.mark.parametrize("radius", [0.1, 2.0])
def test_the_bounds_of_a_mean_are_attained(radius: float) -> None:
    difference, norms, config, normal = one_map(filter_px=1, pooling=1.0)

    def mean(difference: Tensor) -> float:
        return float(difference.square().mean())

    lower, upper = score_bounds(difference.square().mean(1, keepdim=True), norms, normal, config, radius)
    along = radius * difference / difference.norm()
    assert float(lower) == pytest.approx(mean(difference - along), rel=1e-5)
    assert float(upper) == pytest.approx(mean(difference + along), rel=1e-5)


def test_the_upper_bound_of_a_maximum_is_attained() -> None:
    difference, norms, config, normal = one_map(filter_px=3, pooling=0.0)

    def maps(difference: Tensor) -> Tensor:
        return mean_filter(difference.square().mean(1, keepdim=True), 3)

    _, upper = score_bounds(maps(difference), norms, normal, config, 0.8)
    worst = (maps(difference).sqrt() + 0.8 * norms.cells.double()).flatten().argmax()
    y, x = divmod(int(worst), 16)
    window = torch.zeros_like(difference)
    window[..., max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 1
    along = difference * window
    found = maps(difference + 0.8 * along / along.norm()).max()
    assert float(upper) == pytest.approx(float(found), rel=1e-5)


def test_the_interval_of_the_image_mean_is_attained() -> None:
    difference, norms, config, _ = one_map(filter_px=1, pooling=0.0)
    # Cells that cannot move, and a map that is only divided by its mean, show what is divided by.
    config = config.model_copy(update={"normalise_by_image_mean": True, "normalisation": "mean"})
    still = replace(norms, cells=0 * norms.cells)
    maps = difference.square().mean(1, keepdim=True)
    along = 3.0 * difference / difference.norm()
    for ceiling in (1.0, float(maps.mean()), 1e-3):
        normal = MapStatistics(torch.zeros_like(maps), torch.ones_like(maps), ceiling=ceiling)
        lower, upper = score_bounds(maps, still, normal, config, 3.0)
        least, most = (min(float((difference + side * along).square().mean()), ceiling) for side in (-1, 1))
        assert float(lower) == pytest.approx(float(maps.max()) / most, rel=1e-5)
        assert float(upper) == pytest.approx(float(maps.max()) / least, rel=1e-5)


def test_without_a_change_both_bounds_are_the_score() -> None:
    config = ScoreConfig(
        views=(NEAR,),
        scales="separate",
        normalise_by_image_mean=True,
        normalisation="spread",
        filter_px=3,
        pooling=0.05,
    )
    model = detector(config, calibrated=False)
    view, recon = random_images(2, 32), random_images(2, 32, seed=1)
    for index, maps in enumerate(maps_of(view, recon, config)):
        normal = model.statistics(NEAR, index)
        lower, upper = score_bounds(maps, map_norms(NEAR, config)[index], normal, config, 0.0)
        assert torch.equal(lower, upper)
        torch.testing.assert_close(lower, standardise(maps, normal, config)[0])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("way", ["none", "mean", "spread"])
def test_a_larger_radius_never_narrows_the_interval(relative: bool, way: str) -> None:
    config = ScoreConfig(views=(NEAR,), normalise_by_image_mean=relative, normalisation=way, pooling=0.05)
    model = detector(config, calibrated=False)
    (maps,) = maps_of(random_images(1, 32).double(), random_images(1, 32, seed=1).double(), config)
    (norms,), normal = map_norms(NEAR, config), model.statistics(NEAR, 0)
    found = [score_bounds(maps, norms, normal, config, reach) for reach in (0, 0.01, 0.1, 0.3, 1, 3, 10)]
    for one, next in itertools.pairwise(found):
        assert float(next[0]) <= float(one[0]) <= float(one[1]) <= float(next[1])


@pytest.mark.parametrize("way", ["none", "mean", "spread"])
def test_a_perfect_reconstruction_has_finite_bounds(way: str) -> None:
    # No error at all, and normal images that never have any: everything that is divided by is at its least.
    config = ScoreConfig(views=(FAR,), normalise_by_image_mean=True, normalisation=way, pooling=0.05)
    flat = torch.zeros(1, 1, 16, 16)
    normal = MapStatistics(flat, flat + 1e-12, ceiling=1e-12)
    for reach in (0.0, 0.1):
        lower, upper = score_bounds(flat, map_norms(FAR, config)[0], normal, config, reach)
        assert torch.isfinite(torch.stack([lower, upper])).all()
        assert float(lower) <= 0 <= float(upper)
        assert float(upper) > 0 or reach == 0


# --- the whole way from the image as given ------------------------------------------------------------------------

BOTH = ScoreConfig(
    views=(NEAR, FAR),
    scales="separate",
    normalise_by_image_mean=True,
    normalisation="spread",
    filter_px=3,
    pooling=0.05,
    steps=2,
)


@pytest.fixture
def recons(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All reconstructions that the sampler makes, in order."""
    made: list[Tensor] = []

    def remembered(*arguments: object, **options: object) -> Tensor:
        made.append(reconstruct(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(twopath, "reconstruct", remembered)
    return made


@pytest.mark.parametrize("sides", [(40, 52), (16, 16)])  # the larger are shrunk, the smaller enlarged
@pytest.mark.parametrize(
    "config",
    [
        BOTH,
        BOTH.model_copy(
            update={"scales": "averaged", "normalise_by_image_mean": False, "normalisation": "none", "pooling": 0.0}
        ),
    ],
)
def test_every_sample_bounds_the_score_of_every_image_within_the_radius(
    config: ScoreConfig, sides: tuple[int, int], recons: list[Tensor]
) -> None:
    model = detector(config, calibrated=False)
    image = 0.3 + 0.3 * torch.rand(3, *sides, generator=generator(3))
    radii, count = (0.0, 0.1, 0.5), 3
    lower, upper = TwoPath(model).sample(image, radii, count, generator(1))
    assert lower.shape == upper.shape == (2, 3, count)
    assert (lower[:, 0] == upper[:, 0]).all()
    for part, view_config in enumerate(config.views):
        for draw in range(count):
            recon = recons[part][draw, None]

            def score(images: Tensor, recon: Tensor = recon, view_config: NoiseView = view_config) -> Tensor:
                return score_of(model, view_config, resize(resize(images, model.size_px), view_config.view_px), recon)

            with torch.no_grad():
                clean = float(score(image[None]))
            assert clean == pytest.approx(lower[part, 0, draw], rel=1e-5)
            for row, radius in enumerate(radii[1:], 1):
                start = torch.randn(image[None].shape, generator=generator(draw))
                low, high = (searched(score, image[None], start, radius, sign, steps=6) for sign in (-1, 1))
                rounding = 1e-5 * max(abs(low), abs(high), 1)
                assert lower[part, row, draw] <= low + rounding
                assert high - rounding <= upper[part, row, draw]
                assert low < clean < high, "the search has moved nothing"


def test_every_sample_has_its_own_noise_in_every_step() -> None:
    denoiser = Linear(0.5, 0.2)
    config = BOTH.model_copy(update={"views": (FAR,)})
    settings = DetectorConfig(denoiser=TINY, size_px=32, score=config, precision="float32")
    sampler = TwoPath(AdvRAD(denoiser, settings, statistics(config)))
    image = random_images(1, 32)[0]
    lower, _ = sampler.sample(image, (0.0,), 10, generator())
    assert [len(z) for z, _ in denoiser.asked] == [8, 8, 2, 2]  # two walks of two steps
    for step in (0, 1):
        noised = torch.cat([z for z, _ in denoiser.asked[step::2]])
        noise = (noised - noised.mean(0)).flatten(1)
        correlation = torch.corrcoef(noise) - torch.eye(10)
        assert float(correlation.abs().max()) < 0.35  # that of ten draws about their mean is about -1/9
    assert len(set(lower[0, 0])) == 10
    again, _ = sampler.sample(image, (0.0,), 10, generator())
    other, _ = sampler.sample(image, (0.0,), 10, generator(1))
    assert (again == lower).all() and not (other == lower).any()


def test_the_shifts_are_those_of_the_image_as_given() -> None:
    sampler = TwoPath(detector(BOTH, calibrated=False))
    for height_px, width_px in ((32, 32), (40, 52), (16, 16)):
        expected = [
            resize_norm(height_px, width_px, 32, view_config.view_px) / view_config.sigma for view_config in (NEAR, FAR)
        ]
        assert sampler.shifts(height_px, width_px) == pytest.approx(expected)
    assert sampler.shifts(64, 64)[0] < sampler.shifts(32, 32)[0] < sampler.shifts(16, 16)[0]
