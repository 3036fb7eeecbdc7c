"""The quick estimate of the certified AUROC, compared with many draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import FAR, TINY, Linear, generator, random_denoiser, statistics

from advrad.certificates.order_statistics import levels
from advrad.certificates.two_path import TwoPath
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.detectors.score_config import ScoreConfig
from advrad.detectors.scoring import MapStatistics
from advrad.training.selection_certificate import DRAWS, IMAGES, QUANTILES, _by_quantile, certified_aurocs

Style = tuple[ScoreConfig, list[MapStatistics]]

EACH = 10


def style(**values: object) -> Style:
    config = ScoreConfig(**{"views": (FAR,), "normalisation": "noise_tolerant", "pooling": 0.05} | values)
    return config, statistics(config)


NARROW, WIDE, APART = style(filter_px=1), style(filter_px=7), style(filter_px=3, scales="separate")


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Normal images, and images with a square of growing contrast."""
    images = 0.5 + 0.02 * torch.randn(2, EACH, 3, 32, 32, generator=generator())
    images[1, :, :, 8:20, 8:20] += torch.linspace(0.08, 0.5, EACH).view(-1, 1, 1, 1)
    return images[0], images[1]


def from_many_draws(normals: Tensor, defective: Tensor, chosen: Style, radius: float) -> float:
    config, normal = chosen
    settings = DetectorConfig(denoiser=TINY, size_px=32, score=config, precision="float32")
    sampler = TwoPath(AdvRAD(random_denoiser(), settings, normal))
    at = levels(sampler.shifts(32, 32)[0] * radius)
    lows, highs = [], []
    for index, image in enumerate(torch.cat([normals, defective])):
        lower, upper = sampler.sample(image, (radius,), 96, generator(index))
        lows.append(np.quantile(lower[0, 0], at.low))
        highs.append(np.quantile(upper[0, 0], at.high))
    return float(np.mean(np.array(lows[len(normals) :])[:, None] > np.array(highs[: len(normals)])))


def test_the_estimate_is_close_to_that_of_many_draws(images: tuple[Tensor, Tensor]) -> None:
    styles = [NARROW, WIDE, APART]
    quick = [area for area, _ in certified_aurocs(random_denoiser(), *images, FAR, styles, 0.1, noise_seed=1)]
    many = [from_many_draws(*images, chosen, 0.1) for chosen in styles]
    assert quick == pytest.approx(many, abs=0.11)  # one anomalous image more or less
    assert 0.5 < min(many) <= max(many) < 1


def test_a_wide_filter_is_ranked_above_a_narrow_one_for_a_large_radius(images: tuple[Tensor, Tensor]) -> None:
    quick = [area for area, _ in certified_aurocs(random_denoiser(), *images, FAR, [NARROW, WIDE], 0.5, noise_seed=1)]
    many = [from_many_draws(*images, chosen, 0.5) for chosen in (NARROW, WIDE)]
    assert 0 < quick[0] < quick[1] < 1
    assert 0 < many[0] < many[1] < 1
    assert quick == pytest.approx(many, abs=0.11)


def test_a_larger_radius_lowers_the_certified_auroc(images: tuple[Tensor, Tensor]) -> None:
    found = [
        certified_aurocs(random_denoiser(), *images, FAR, [WIDE], radius, noise_seed=1)[0][0]
        for radius in (0, 0.1, 0.5, 2)
    ]
    assert found == sorted(set(found), reverse=True)
    assert found[-1] == 0


def test_the_noise_depends_on_the_seed_only(images: tuple[Tensor, Tensor]) -> None:
    both = certified_aurocs(random_denoiser(), *images, FAR, [NARROW, WIDE], 0.1, noise_seed=1)
    assert certified_aurocs(random_denoiser(), *images, FAR, [WIDE, NARROW], 0.1, noise_seed=1) == both[::-1]
    assert certified_aurocs(random_denoiser(), *images, FAR, [NARROW, WIDE], 0.1, noise_seed=2) != both


def test_a_few_images_are_used_each_with_its_own_noise() -> None:
    denoiser, (good, bad) = Linear(0.5, 0.2), IMAGES
    normals, defective = torch.full((good + 5, 3, 16, 16), 0.3), torch.full((bad + 5, 3, 16, 16), 0.9)
    ((area, quantile),) = certified_aurocs(denoiser, normals, defective, FAR, [WIDE], 0.01, noise_seed=0)
    assert (area, quantile) == (1, 0.5)
    noised = torch.cat([z for z, _ in denoiser.asked])
    assert len(noised) == (good + bad) * DRAWS
    assert len({float(z.sum()) for z in noised}) == len(noised)
    assert sum(bool(z.mean() < 0.6) for z in noised) == good * DRAWS


@pytest.mark.parametrize(("good", "bad", "quantile"), [(1.0, 0.1, 0.3), (0.1, 1.0, 0.7), (0.5, 0.5, 0.5)])
def test_the_quantile_follows_the_more_variable_scores(good: float, bad: float, quantile: float) -> None:
    """A low quantile lowers variable scores; the quantiles of the draws agree."""
    rng = np.random.default_rng(0)
    places = rng.normal(0, 0.5, 60)
    defective = 1 + places[:30, None] + bad * rng.normal(size=(30, 400))
    normals = places[30:, None] + good * rng.normal(size=(30, 400))
    area, found = _by_quantile(defective, normals, 0.3)
    assert found == quantile
    at = {each: levels(0.3, each) for each in QUANTILES}
    drawn = {
        each: np.mean(np.quantile(defective, at[each].low, 1)[:, None] > np.quantile(normals, at[each].high, 1))
        for each in QUANTILES
    }
    assert area == pytest.approx(drawn[found], abs=0.03)
    assert drawn[found] >= max(drawn.values()) - 0.02
