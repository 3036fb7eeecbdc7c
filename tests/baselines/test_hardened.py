"""Adversarial training: what is trained, the robustness that it gives, and its seed."""

from __future__ import annotations

from functools import cache
from typing import Literal

import pytest
import torch
from toy_features import ToyFeatures, assert_contract, make_context, normal_and_anomalous, robust_auroc
from toy_models import generator

from advrad.attacks.base import AttackInput
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.threat import Threat
from advrad.baselines.base import FitContext
from advrad.baselines.cfa import Cfa
from advrad.baselines.fastflow import FastFlow
from advrad.baselines.hardened import HardenedOptions, fit_hardened
from advrad.errors import ConfigError
from advrad.utils.progress import CallbackReporter

EPS = 8 / 255

Model = Literal["cfa", "fastflow"]
both = pytest.mark.parametrize("model", ["cfa", "fastflow"])


@cache
def fitted(model: Model, eps: float) -> Cfa | FastFlow:
    options = HardenedOptions(model=model, attack_eps=eps, steps=60, batch_size=8, learning_rate=1e-2)
    return fit_hardened(make_context(24), options, ToyFeatures())


@both
def test_contract(model: Model) -> None:
    system = fitted(model, EPS)
    assert isinstance(system, Cfa if model == "cfa" else FastFlow)
    assert not any(parameter.requires_grad for parameter in system.parameters())
    assert_contract(system)


@both
def test_training_lowers_the_loss_on_images_not_shown(model: Model) -> None:
    good, _ = normal_and_anomalous(10)
    before = fit_hardened(
        make_context(24), HardenedOptions(model=model, attack_eps=0, steps=1, learning_rate=1e-12), ToyFeatures()
    )
    assert float(fitted(model, 0.0).losses(good).mean()) < float(before.losses(good).mean()) - 0.5


@both
def test_what_learned_from_attacks_is_moved_less_by_them(model: Model) -> None:
    good, _ = normal_and_anomalous(12)
    draws = [generator(i) for i in range(len(good))]
    rises = {}
    for eps in (0.0, EPS):
        system = fitted(model, eps)
        attacked = pgd(
            AttackInput(
                lambda x, system=system: system.infer(x, generator()).scores,
                good,
                Threat(norm="linf", eps=EPS),
                draws,
                10,
            )
        ).images
        ratio = system.infer(attacked, generator()).scores.mean() / system.infer(good, generator()).scores.mean()
        rises[eps] = float(ratio)
    assert rises[0.0] > 5
    assert rises[EPS] < 0.5 * rises[0.0]


@both
def test_the_plain_control_is_the_better_fooled(model: Model) -> None:
    good, bad = normal_and_anomalous(12)
    small = 0.5 / 255
    plain, hard = fitted(model, 0.0), fitted(model, EPS)
    assert robust_auroc(plain, good, bad, 0.0) > 0.6
    assert robust_auroc(hard, good, bad, small) > robust_auroc(plain, good, bad, small) + 0.03


@both
def test_the_seed_decides(model: Model) -> None:
    options = HardenedOptions(model=model, attack_eps=EPS, steps=3)
    one, same, other = (
        torch.cat(
            [p.flatten() for p in fit_hardened(make_context(seed=seed), options, ToyFeatures()).trainable_parameters()]
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    taught = FitContext(
        make_context().normal_images, progress=CallbackReporter(lambda done, whole: told.append((done, whole)))
    )
    fit_hardened(taught, HardenedOptions(steps=3, attack_eps=0), ToyFeatures())
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("values", [{"model": "patchcore"}, {"attack_eps": "2/0"}, {"steps": 0}, {"epochs": 5}])
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"grid.toml: {next(iter(values))}"):
        HardenedOptions.parse(values, "grid.toml")
