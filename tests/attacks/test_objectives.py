"""The objectives that attacks maximise."""

from __future__ import annotations

import math

import pytest
import torch
from broken_detectors import Noisy, honest
from toy_models import assert_gradient, detector, generator, random_images

from advrad.attacks.objectives import ALTERNATING, OUTPUT_LOSSES, available_objectives, component_names, make_objective
from advrad.detectors.base import DetectorOutput
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError

SIGNS = torch.tensor([1.0, -1.0])


def test_the_sign_says_which_way_is_up() -> None:
    images, target = random_images(2, 16), honest()
    objective = make_objective(target, SIGNS, "score", generator())(images)
    torch.testing.assert_close(objective, SIGNS * target.infer(images, generator()).scores)


@pytest.mark.parametrize("name", OUTPUT_LOSSES)
def test_every_surrogate_rises_with_the_largest_values_of_the_map(name: str) -> None:
    maps = random_images(2, 12)[:, :1]
    output = DetectorOutput(maps.amax((1, 2, 3)), maps)
    higher = DetectorOutput(output.scores + 1, maps + (maps >= maps.amax((1, 2, 3), keepdim=True)))
    assert (OUTPUT_LOSSES[name](higher) > OUTPUT_LOSSES[name](output)).all()


def test_the_soft_maximum_lies_above_the_maximum_and_moves_with_it() -> None:
    maps = random_images(3, 12)[:, :1]
    value = OUTPUT_LOSSES["logsumexp"](DetectorOutput(maps.amax((1, 2, 3)), maps))
    heat = 0.5 * maps.flatten(1).std(1)
    top = maps.amax((1, 2, 3))
    assert (value > top).all() and (value <= top + heat * math.log(144)).all()
    torch.testing.assert_close(OUTPUT_LOSSES["logsumexp"](DetectorOutput(top, 7 * maps)), 7 * value)


def test_without_maps_surrogates_fall_back_on_the_score() -> None:
    scores = torch.rand(3)
    for surrogate in OUTPUT_LOSSES.values():
        torch.testing.assert_close(surrogate(DetectorOutput(scores)), scores)


def test_gradients_are_exact_for_every_surrogate_of_our_detector() -> None:
    made = detector(calibrated=False)
    ours = WhiteBoxAdvRAD(made.double())
    images = random_images(1, 32, dtype=torch.float64)
    for name in (*OUTPUT_LOSSES, *ours.surrogates):
        if name == "logsumexp":
            continue  # its temperature is a constant by intent
        assert_gradient(
            lambda x, name=name: make_objective(ours, torch.ones(1).double(), name, generator(), known_noise=5)(x),
            images,
            directions=2,
        )


def test_more_draws_are_averaged_and_every_call_draws_anew() -> None:
    target, images = wrap(Noisy()), random_images(2, 16)
    one = make_objective(target, SIGNS, "score", generator())
    values = torch.stack([one(images) for _ in range(60)])
    assert (values.std(0) > 0).all()
    many = make_objective(target, SIGNS, "score", generator(), eot=20)
    averaged = torch.stack([many(images) for _ in range(20)])
    assert (averaged.std(0) < 0.5 * values.std(0)).all()


def test_an_attacker_who_knows_the_noise_sees_the_same_score_every_time() -> None:
    target, images = wrap(Noisy()), random_images(2, 16)
    known = make_objective(target, SIGNS, "score", generator(), known_noise=7)
    assert torch.equal(known(images), known(images))
    torch.testing.assert_close(known(images), SIGNS * target.infer(images, generator(7)).scores)


def test_parts_are_taken_in_turn() -> None:
    ours, images = WhiteBoxAdvRAD(detector()), random_images(2, 32)
    names = component_names(ours)
    assert names == ("part noise 0.2", "part noise 0.4")
    objective = make_objective(ours, torch.ones(2), ALTERNATING, generator(4))
    source = generator(4)
    expected = [ours.surrogates[names[turn % 2]](images, source) for turn in (1, 2, 3)]
    torch.testing.assert_close([objective(images) for _ in range(3)], expected)


def test_an_unknown_surrogate_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="surrogate fog: is unknown here; choose score, "):
        make_objective(honest(), SIGNS, "fog", generator())
    assert ALTERNATING not in available_objectives(honest())
