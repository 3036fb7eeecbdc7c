"""The plain autoencoder: the detector protocol, its score by hand, and its accuracy on a toy product."""

from __future__ import annotations

import pytest
import torch
from toy_features import assert_contract, make_context, robust_auroc
from toy_models import generator, random_images, stack
from toy_squares import normal_and_squares

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, fit_autoencoder
from advrad.baselines.base import FitContext, build_seeded, resize_clamped
from advrad.data.transforms import resize
from advrad.errors import ConfigError

SMALL = AutoencoderOptions(work_px=32, channels=(8, 16, 32), latent_channels=4, steps=2, batch_size=8)


def fitted(seed: int = 0, **changes: object) -> Autoencoder:
    return fit_autoencoder(make_context(24, seed=seed), SMALL.model_copy(update=changes))


def test_contract() -> None:
    system = fitted(work_px=16)
    assert not system.training
    assert not any(parameter.requires_grad for parameter in system.parameters())
    assert_contract(system)
    system.size_px = 48
    assert_contract(system, size_px=48)


def test_map_and_score_are_the_squared_error() -> None:
    system, images = fitted(), random_images(2)
    error = (images - (system.decoder(system.encoder(2 * images - 1)) + 1) / 2).square().mean(1, keepdim=True)
    answer = system.infer(images, generator())
    assert answer.anomaly_maps is not None
    torch.testing.assert_close(answer.anomaly_maps, error)
    ten = error.flatten(1).sort(1, descending=True).values[:, :10].mean(1)  # 1 % of 1024
    torch.testing.assert_close(answer.scores, ten)
    torch.testing.assert_close(system.losses(images), error.mean((1, 2, 3)))
    whole = Autoencoder(32, SMALL.model_copy(update={"pooling": 1.0}))
    whole.load_state_dict(system.state_dict())
    torch.testing.assert_close(whole.infer(images, generator()).scores, error.mean((1, 2, 3)))


def test_the_latent_is_as_small_as_the_options_say() -> None:
    assert SMALL.latent_px == 4
    assert fitted().encode(random_images(2)).shape == (2, 4, 4, 4)


def test_after_a_short_training_defects_are_restored_worse() -> None:
    system = fitted(steps=250)
    good, bad = normal_and_squares()
    assert float(system.losses(good).mean()) < 0.1 * float((good - good.mean((2, 3), keepdim=True)).square().mean())
    assert robust_auroc(system, good, bad, 0.0) > 0.95


def test_the_seed_decides_the_weights() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (fitted(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["encoder.0.0.weight"], other["encoder.0.0.weight"])


def test_kinds_begin_apart() -> None:
    one, other = (build_seeded(make_context(), name, lambda: Autoencoder(32, SMALL)) for name in ("a", "b"))
    assert not torch.equal(one.encoder[0][0].weight, other.encoder[0][0].weight)


def test_training_images_stay_in_range() -> None:
    edges = torch.zeros(1, 3, 48, 48)
    edges[..., 24:] = 1
    view = resize_clamped(edges.requires_grad_(), 32)
    assert not view.requires_grad
    assert float(view.min()) >= 0 and float(view.max()) <= 1
    torch.testing.assert_close(view, resize(edges, 32).detach())


def test_good_images_at_another_size_than_the_network() -> None:
    system = fit_autoencoder(FitContext(stack(8, 48)), SMALL)
    assert system.size_px == 48
    answer = system.infer(random_images(1, 48), generator())
    assert answer.anomaly_maps is not None and answer.anomaly_maps.shape == (1, 1, 48, 48)


@pytest.mark.parametrize("values", [{"work_px": 40, "channels": [8] * 4}, {"channels": []}, {"dropout": 0.1}])
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"grid\.toml: "):
        AutoencoderOptions.parse(values, "grid.toml")
