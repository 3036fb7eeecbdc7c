"""The detector interface, wrapped callables, and AdvRAD in its white-box form."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from broken_detectors import Autoencoder, Noisy, VeryNoisy, honest, labelled_images
from torch import Tensor
from toy_models import detector, generator, random_images

import advrad
from advrad.attacks.objectives import component_names
from advrad.detectors.base import AnomalyDetector, SupportsGradientPrecision, SupportsTwoPath, SurrogateLoss
from advrad.detectors.probing import probe, validated_output
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector, wrap
from advrad.errors import ConfigError, DetectorError


def mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def square_maps(images: Tensor) -> Tensor:
    return images.square().mean(1, keepdim=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: (mean(x), square_maps(x)),
        lambda x: (square_maps(x), mean(x)),
        lambda x: SimpleNamespace(pred_score=mean(x), anomaly_map=square_maps(x)),
        lambda x: {"pred_score": mean(x)[:, None], "anomaly_map": square_maps(x)[:, 0]},
    ],
)
def test_scores_and_maps_are_found_in_many_kinds_of_output(call: object) -> None:
    images = random_images(3, 8)
    answer = validated_output(wrap(call), images, generator())  # type: ignore[arg-type]
    torch.testing.assert_close(answer.scores, mean(images))
    assert answer.anomaly_maps is not None
    torch.testing.assert_close(answer.anomaly_maps, square_maps(images))


def test_the_score_of_a_map_is_its_maximum() -> None:
    images = random_images(3, 8)
    answer = validated_output(wrap(square_maps), images, generator())
    torch.testing.assert_close(answer.scores, square_maps(images).amax((1, 2, 3)))


def test_scores_alone_are_enough() -> None:
    assert validated_output(wrap(mean), random_images(3, 8), generator()).anomaly_maps is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: torch.zeros(2), "must be"),
        (lambda x: torch.zeros(len(x), 2), "2 numbers for each image"),
        (lambda x: mean(x) * math.nan, "not a finite number"),
        (lambda x: (mean(x), square_maps(x) * math.inf), "not a finite number"),
        (lambda x: (mean(x), x), "maps"),
        (lambda x: "good", "returned str, not numbers"),
        (lambda x: None, "neither"),
        (lambda x: {}, "neither"),
    ],
)
def test_outputs_that_are_not_valid_are_named(call: object, words: str) -> None:
    with pytest.raises(DetectorError, match=words):
        validated_output(wrap(call), random_images(3, 8), generator())  # type: ignore[arg-type]


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        wrap(3)  # type: ignore[arg-type]


def test_noise_from_the_global_generator_follows_the_given_one() -> None:
    noisy, images = wrap(Noisy()), random_images(2, 16)
    before = torch.get_rng_state()
    first, again, other = (noisy.infer(images, generator(seed)).scores for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draw", [np.random.rand, random.random])
def test_noise_of_numpy_and_python_follows_the_given_generator_too(draw: Callable[[], float]) -> None:
    noisy, images = wrap(lambda images: mean(images) + draw()), random_images(2, 16)
    before = np.random.get_state()[1].tolist(), random.getstate()
    first, again, other = (noisy.infer(images, generator(seed)).scores for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


def test_a_callable_that_takes_a_generator_gets_it() -> None:
    def call(images: Tensor, generator: torch.Generator) -> Tensor:
        return mean(images) + torch.rand((), generator=generator)

    detector = wrap(call)
    first, again, other = (detector.infer(random_images(1, 8), generator(seed)).scores for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_module_is_put_in_evaluation_mode() -> None:
    module = Autoencoder().train()
    wrap(module)
    assert not module.training


def test_properties_are_measured_not_believed() -> None:
    images = labelled_images().images[:1]
    assert probe(honest(), images).deterministic and probe(honest(), images).differentiable
    assert not probe(wrap(Noisy(), deterministic=False), images).deterministic
    blind = probe(wrap(lambda x: mean(x).detach()), images)
    assert not blind.differentiable and blind.why_not


def test_the_agreement_of_gradients_of_two_noise_draws_is_measured() -> None:
    images = labelled_images().images[:2]
    assert probe(honest(), images).agreement == 1.0
    assert 0.5 < probe(wrap(Noisy()), images).agreement < 1.0
    assert abs(probe(wrap(VeryNoisy()), images).agreement) < 0.1
    flat = wrap(lambda x: 0 * mean(x) + torch.randn(1))  # without a gradient there is nothing to compare
    assert probe(flat, images).agreement == 1.0


def test_losses_are_given_as_functions_or_with_their_kind() -> None:
    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        return mean(images)

    made = wrap(mean, surrogates={"plain": loss, "part": SurrogateLoss(loss, "component")})
    assert {name: one.kind for name, one in made.surrogates.items()} == {"plain": "surrogate", "part": "component"}
    images = random_images(2, 8)
    torch.testing.assert_close(made.surrogates["plain"](images, generator()), mean(images))


def test_our_model_is_used_in_its_white_box_form() -> None:
    made = detector()
    found = as_detector(made)
    assert isinstance(found, WhiteBoxAdvRAD) and found.detector is made
    with pytest.raises(ConfigError, match="needs no wrapping"):
        wrap(made)
    other = wrap(mean)
    assert as_detector(other) is other


def test_optional_parts_of_the_interface_are_recognised() -> None:
    ours = WhiteBoxAdvRAD(detector())
    assert isinstance(ours, SupportsGradientPrecision) and isinstance(ours, SupportsTwoPath)
    assert ours.reconstruction_model is ours.detector
    assert (ours.gradient_precision, ours.with_gradient_precision("bfloat16").gradient_precision) == (
        "float32",
        "bfloat16",
    )
    other = wrap(mean)
    assert not isinstance(other, SupportsGradientPrecision) and not isinstance(other, SupportsTwoPath)


def test_wrap_is_part_of_the_front() -> None:
    assert advrad.wrap is wrap


def test_our_detector_has_the_interface() -> None:
    ours: AnomalyDetector = WhiteBoxAdvRAD(detector())
    images = random_images(2, 32)
    answer = validated_output(ours, images, generator(3))
    wanted, maps, _ = detector().infer(images, generator(3))
    torch.testing.assert_close(answer.scores, wanted)
    assert answer.anomaly_maps is not None
    torch.testing.assert_close(answer.anomaly_maps, maps)
    assert ours.size_px == 32 and ours.threshold == detector().calibration.threshold and ours.noise_seed == 0


def test_the_parts_of_our_score_have_its_mean() -> None:
    """Over many draws of noise; the attacker may take them in turn."""
    ours, images = WhiteBoxAdvRAD(detector()), random_images(2, 32)
    parts = [loss for loss in ours.surrogates.values() if loss.kind == "component"]
    assert len(parts) == 2
    with torch.no_grad():
        mean_of_parts = torch.stack([part(images, generator(seed)) for seed in range(100) for part in parts]).mean(0)
        whole = torch.stack([ours.infer(images, generator(seed)).scores for seed in range(100)])
    error = 4 * whole.std(0) / 10
    assert ((mean_of_parts - whole.mean(0)).abs() < error).all()


def test_scales_of_our_score_together_are_the_score() -> None:
    ours, images = WhiteBoxAdvRAD(detector()), random_images(2, 32)
    scales = [loss(images, generator(1)) for loss in ours.surrogates.values() if loss.kind == "scale"]
    assert len(scales) == 4
    torch.testing.assert_close(torch.stack(scales).mean(0), ours.infer(images, generator(1)).scores)


def test_reconstructions_of_many_steps_have_losses_of_their_own() -> None:
    from toy_models import TWO_VIEWS

    ours = WhiteBoxAdvRAD(detector(TWO_VIEWS.model_copy(update={"steps": 3})))
    images = random_images(1, 32).requires_grad_()
    kinds = {name: loss.kind for name, loss in ours.surrogates.items()}
    assert (kinds["one shot"], kinds["straight through"]) == ("one_step", "bpda")
    straight = ours.surrogates["straight through"](images, generator(1))
    with torch.no_grad():
        # The value is the score; only its gradient is another.
        torch.testing.assert_close(straight, ours.infer(images, generator(1)).scores, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(straight.sum(), images)
    (exact,) = torch.autograd.grad(ours.infer(images, generator(1)).scores.sum(), images)
    assert gradient.abs().sum() > 0 and not torch.allclose(gradient, exact)


def test_parameters_are_frozen_for_attacks() -> None:
    assert not any(parameter.requires_grad for parameter in WhiteBoxAdvRAD(detector()).detector.parameters())


def test_gradients_in_bfloat16_point_where_those_in_float32_do() -> None:
    exact, images = WhiteBoxAdvRAD(detector()), random_images(4, 32)
    rough = exact.with_gradient_precision("bfloat16")
    with torch.no_grad():
        same = torch.equal(*(one.infer(images, generator(1)).scores for one in (exact, rough)))
    assert same, "scores are in the arithmetic of use, whatever the gradients are in"

    def gradient(one: WhiteBoxAdvRAD, name: str | None) -> torch.Tensor:
        point = images.clone().requires_grad_()
        scores = one.surrogates[name](point, generator(1)) if name else one.infer(point, generator(1)).scores
        return torch.autograd.grad(scores.sum(), point)[0].flatten(1)

    for name in (None, *component_names(exact)):
        wanted, found = gradient(exact, name), gradient(rough, name)
        assert not torch.equal(wanted, found), "bfloat16 was not used"
        assert (torch.cosine_similarity(wanted, found) > 0.98).all()
        torch.testing.assert_close(wanted.norm(dim=1), found.norm(dim=1), rtol=0.1, atol=0)
