"""Every baseline, fitted for a moment, satisfies the detector protocol."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_models import detector, generator, random_images, stack

from advrad.baselines.base import FitContext
from advrad.baselines.registry import BASELINES
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import validated_output
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError
from advrad.training import guard_trial, score_selection

SIDE = 64

#: Options with which a fit takes a second; kinds that use a network with ImageNet weights need anomalib.
QUICK: dict[str, dict[str, Any]] = {
    "closed-form": {"false_alarm_rate": 0.1},
    "combined": {"score": "robust"},
    "features": {"network": "lite0", "layers": (1,)},
    "guarded": {"false_alarm_rate": 0.1},
    "paper": {"sigma": 0.1},
    "anomalib": {"model": "padim"},
    "spade": {"neighbours": 3},
    "purified": {"sigma": 0.1, "steps": 2},
    "hardened": {"steps": 2, "attack_steps": 1},
    "robust-knn": {"steps": 2, "attack_steps": 1, "view_px": 64},
    "anoddpm": {"steps": 2, "work_px": 32, "walk_steps": 2},
    "ocrgan": {"steps": 2, "work_px": 32},
    "skipgan": {"steps": 2, "work_px": 32},
    "autoencoder": {"steps": 2},
    "apae": {"steps": 2},
    "pls": {"steps": 2},
    "rae": {"steps": 2},
    "patchguard": {"steps": 2},
}


def test_every_row_is_tried() -> None:
    assert set(QUICK) == set(BASELINES)


def rows() -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.anomalib] * bool(row.packages)) for name, row in BASELINES.items()]


#: Made once, so that it moves no source of randomness later.
ours = functools.cache(detector)


def make_context(seed: int = 0) -> FitContext:
    return FitContext(stack(24, SIDE), seed, diffusion=ours)


def fitted(name: str, seed: int = 0) -> AnomalyDetector:
    row = BASELINES[name]
    given = {"inner": lambda _: wrap(brightness, deterministic=True)} if row.wraps_detector else {}
    context = make_context(seed) if row.diffusion else FitContext(stack(24, SIDE), seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_trial, "MOST_JUDGED", 4)
        patch.setattr(score_selection, "DEFECTS_PER_SELECTION", 8)
        return row.fit(context, row.options.parse(QUICK[name], name), **given)


@functools.cache
def once(name: str) -> AnomalyDetector:
    return fitted(name)


def brightness(images: Tensor) -> Tensor:
    """A detector whose score is smooth."""
    return (images - 0.3).square().mean(1)


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("name", rows())
def test_scores_and_maps_have_their_shapes(name: str) -> None:
    found = once(name)
    images = random_images(3, found.size_px or SIDE)
    answer = validated_output(found, images, generator())
    assert answer.scores.shape == (3,)
    assert answer.anomaly_maps is None or answer.anomaly_maps.shape[:2] == (3, 1)
    assert found.size_px in (None, SIDE, 32)  # the toy AdvRAD has 32 px


@pytest.mark.parametrize("name", rows())
def test_a_score_depends_on_its_own_image_only(name: str) -> None:
    found = once(name)
    images = random_images(4, found.size_px or SIDE)
    together = validated_output(found, images, generator()).scores
    turned = validated_output(found, images.flip(0), generator()).scores.flip(0)
    alone = torch.cat([validated_output(found, images[i : i + 1], generator()).scores for i in range(4)])
    scale = float(together.abs().max())
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5 * scale)
    assert torch.allclose(together, turned, rtol=1e-4, atol=1e-5 * scale)
    assert together.unique().numel() == 4


@pytest.mark.parametrize("name", rows())
def test_it_draws_noise_if_and_only_if_it_says_so(name: str) -> None:
    found = once(name)
    images = random_images(2, found.size_px or SIDE)
    first, again, other = (validated_output(found, images, generator(seed)).scores for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == found.deterministic


@pytest.mark.parametrize("name", rows())
def test_the_score_rises_along_its_gradient_as_the_gradient_says(name: str) -> None:
    found = once(name)
    assert found.differentiable
    images = stack(2, found.size_px or SIDE, seed=7).batch(slice(None))
    point = images.clone().requires_grad_()
    scores = found.infer(point, generator()).scores
    (gradient,) = torch.autograd.grad(scores.sum(), point)
    assert torch.isfinite(gradient).all()
    length = gradient.flatten(1).norm(dim=1)
    assert (length > 0).all()
    # Several step sizes: scores have kinks and float32 rounds, and one step must lie between the two limits.
    misses = []
    for step in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1):
        move = step * gradient / length[:, None, None, None]
        with torch.no_grad():
            above = found.infer(images + move, generator()).scores.double()
            below = found.infer(images - move, generator()).scores.double()
        slope = (above - below) / (2 * step)
        misses.append(float(((slope - length) / length).abs().max()))
    assert min(misses) < 0.05, misses


@pytest.mark.parametrize("name", rows())
def test_the_seed_decides_the_fit(name: str) -> None:
    images = random_images(2, once(name).size_px or SIDE)
    state = torch.random.get_rng_state()
    again = validated_output(fitted(name), images, generator()).scores
    assert torch.equal(torch.random.get_rng_state(), state), "the fit moved the global source of randomness"
    assert torch.allclose(again, validated_output(once(name), images, generator()).scores, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_an_unknown_option_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        BASELINES[name].options.parse(QUICK[name] | {"nonsense": 1}, name)


def test_the_old_name_of_the_training_images_still_works() -> None:
    context = FitContext(stack(4, 32))
    with pytest.warns(DeprecationWarning, match="normal_images"):
        assert context.good is context.normal_images
