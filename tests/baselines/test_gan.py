"""Reconstruction GANs: the detector protocol, their score, and their accuracy on a toy product."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toy_models import assert_gradient, generator, random_images, stack

from advrad.baselines import gan
from advrad.baselines.base import FitContext
from advrad.baselines.gan import GanOptions, ReconstructionGan, fit_gan
from advrad.baselines.ocrgan import TwoBranches
from advrad.baselines.skipgan import UNet
from advrad.detectors.probing import probe
from advrad.metrics import auroc

SMALL = GanOptions(work_px=32, channels=(8, 16), steps=3)
Build = Callable[[tuple[int, ...]], nn.Module]
BUILDS: list[Build] = [UNet, TwoBranches]


def fitted(build: Build, seed: int = 0, **changes: object) -> ReconstructionGan:
    options = SMALL.model_copy(update=changes)
    return fit_gan(FitContext(stack(24), seed=seed), options, lambda: build(options.channels), "toy")


def with_defects(images: Tensor) -> Tensor:
    """A red square of 10 px in every image, each at another position."""
    images = images.clone()
    for row, (top, left) in enumerate(torch.randint(22, (len(images), 2), generator=generator(5)).tolist()):
        images[row, :, top : top + 10, left : left + 10] = torch.tensor([0.9, 0.1, 0.2])[:, None, None]
    return images


@pytest.mark.parametrize("build", BUILDS)
def test_a_score_depends_on_its_own_image_only(build: Build) -> None:
    detector = fitted(build)
    detector.size_px = 48
    images = random_images(5, 48)
    together = detector.infer(images, generator())
    assert together.scores.shape == (5,)
    assert together.anomaly_maps is not None
    assert together.anomaly_maps.shape == (5, 1, 48, 48)
    for row in range(5):
        alone = detector.infer(images[row : row + 1], generator())
        assert torch.allclose(alone.scores, together.scores[row : row + 1], rtol=1e-4)
        assert alone.anomaly_maps is not None
        assert torch.allclose(alone.anomaly_maps[0], together.anomaly_maps[row], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("build", BUILDS)
def test_it_is_what_it_says(build: Build) -> None:
    detector = fitted(build)
    traits = probe(detector, random_images(2))
    assert (traits.deterministic, traits.differentiable) == (True, True)
    assert (detector.deterministic, detector.differentiable) == (True, True)
    assert not detector.training


@pytest.mark.parametrize("build", BUILDS)
def test_gradients_are_exact(build: Build) -> None:
    detector = fitted(build, latent_weight=5.0, score_weight=0.5).double()
    images = random_images(2, 48, dtype=torch.float64)
    # A step so small that no rectifier switches within it.
    assert_gradient(lambda x: detector.infer(x, generator()).scores, images, step=1e-8)


class Brighter(nn.Module):
    def forward(self, signed: Tensor) -> Tensor:
        return signed + 0.2


def test_the_score_weighs_error_and_change_of_features() -> None:
    images = random_images(3)

    def scores(generator_: nn.Module, score_weight: float) -> Tensor:
        torch.manual_seed(3)
        options = SMALL.model_copy(update={"score_weight": score_weight})
        return ReconstructionGan(32, options, generator_).eval().infer(images, generator()).scores

    assert torch.equal(scores(nn.Identity(), 0.9), torch.zeros(3))
    assert torch.allclose(scores(Brighter(), 1.0), torch.full((3,), 0.04))
    latent = scores(Brighter(), 0.0)
    assert bool((latent > 0).all())
    assert torch.allclose(scores(Brighter(), 0.9), 0.9 * 0.04 + 0.1 * latent)


@pytest.mark.parametrize("build", BUILDS)
def test_after_a_short_training_defects_are_reconstructed_worse(build: Build) -> None:
    detector = fitted(build, steps=120, learning_rate=2e-3)
    images = stack(16, seed=1).batch(slice(0, 16))
    signed = 2 * images - 1
    good = (detector.generator(signed) - signed).abs().mean()
    assert good < 0.25 * (signed - signed.mean((2, 3), keepdim=True)).abs().mean()
    scores = torch.cat([detector.infer(part, generator()).scores for part in (images, with_defects(images))])
    assert auroc([0] * 16 + [1] * 16, scores.numpy()) > 0.95


@pytest.mark.parametrize("negatives", [False, True])
def test_negatives_teach_the_discriminator_what_is_misplaced(negatives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pasted(images: Tensor, donors: Tensor, seeds: list[int], kinds: tuple[str, ...]) -> tuple[Tensor, None]:
        asked.extend(seeds)
        assert kinds == ("patch",)
        assert not torch.equal(images, donors)
        return with_defects(images), None

    monkeypatch.setattr(gan, "paste_defects", pasted)  # defects that are easy to learn
    judge = fitted(UNet, steps=60, negatives=negatives, learning_rate=2e-3).discriminator
    images = stack(16, seed=1).batch(slice(0, 16))
    good, bad = (judge.logits(judge.features(2 * part - 1)) for part in (images, with_defects(images)))
    assert len(set(asked)) == (60 * 8 if negatives else 0)
    assert (auroc([0] * 16 + [1] * 16, -torch.cat([good, bad]).numpy()) > 0.95) == negatives


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("negatives", [False, True])
def test_the_seed_decides_the_weights(build: Build, negatives: bool) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (fitted(build, seed, negatives=negatives).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["discriminator.head.weight"], other["discriminator.head.weight"])


def test_good_images_at_another_size_than_the_networks() -> None:
    options = SMALL.model_copy(update={"work_px": 16})
    detector = fit_gan(FitContext(stack(8, 48)), options, lambda: UNet(options.channels), "toy")
    assert detector.size_px == 48
    judged = detector.infer(random_images(1, 48), generator())
    assert judged.anomaly_maps is not None
    assert judged.anomaly_maps.shape == (1, 1, 48, 48)
