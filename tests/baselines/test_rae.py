"""ARAE: the distance of its latents, and that adversarial training makes attacks move them less."""

from __future__ import annotations

from functools import cache

import torch
from toy_features import assert_contract, make_context, robust_auroc
from toy_models import generators, random_images
from toy_squares import normal_and_squares

from advrad.attacks.base import AttackInput
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.threat import Threat
from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, fit_autoencoder
from advrad.baselines.rae import RaeOptions, fit_rae, relative_distance

EPS = 8 / 255
SMALL = RaeOptions(work_px=32, channels=(8, 16, 32), latent_channels=4, batch_size=8, latent_weight=1.0)


@cache
def fitted(eps: float = EPS, weight: float = 1.0, steps: int = 200, seed: int = 0) -> Autoencoder:
    changes = {"attack_eps": eps, "latent_weight": weight, "steps": steps}
    return fit_rae(make_context(24, seed=seed), SMALL.model_copy(update=changes))


def test_contract() -> None:
    assert_contract(fitted(steps=2))


def test_the_distance_is_relative_to_the_spread_of_the_latents() -> None:
    others = torch.tensor([[0.0, 2.0], [4.0, 2.0], [2.0, 8.0]]).view(3, 2, 1, 1)  # variances 8/3 and 8
    latents = others + torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]).view(3, 2, 1, 1)
    spread = (8 / 3 + 8) / 2
    torch.testing.assert_close(relative_distance(latents, others), torch.tensor([0.5, 4.5, 0.0]) / spread)
    torch.testing.assert_close(relative_distance(3 * latents, 3 * others), relative_distance(latents, others))
    assert bool(torch.isfinite(relative_distance(latents[:1], others[:1])).all())


def shift(system: Autoencoder) -> float:
    """Measure how far an attack moves the latents of new normal images, relative to their spread."""
    good, _ = normal_and_squares(12)
    place = system.encode(good)
    attacked = pgd(
        AttackInput(
            lambda x: relative_distance(system.encode(x), place), good, Threat(norm="linf", eps=EPS), generators(12), 10
        )
    )
    return float(attacked.values.mean())


def test_attacks_move_the_latents_less() -> None:
    plain = shift(fitted(0.0, 0.0))
    assert shift(fitted()) < 0.5 * plain


def test_it_loses_less_under_attack_than_a_plain_autoencoder() -> None:
    good, bad = normal_and_squares()
    options = AutoencoderOptions.model_validate(
        {name: getattr(SMALL, name) for name in AutoencoderOptions.model_fields}
    )
    plain = fit_autoencoder(make_context(24), options.model_copy(update={"steps": 200}))
    for system in (plain, fitted()):
        assert robust_auroc(system, good, bad, 0.0) > 0.95
    assert robust_auroc(fitted(), good, bad, EPS) > robust_auroc(plain, good, bad, EPS) + 0.2


def test_the_seed_decides() -> None:
    one, other = fitted(steps=3, seed=1), fitted(steps=3, seed=2)
    same = fit_rae(make_context(24, seed=1), SMALL.model_copy(update={"attack_eps": EPS, "steps": 3}))
    images = random_images(2)
    assert torch.equal(one.reconstruct(images), same.reconstruct(images))
    assert not torch.equal(one.reconstruct(images), other.reconstruct(images))
