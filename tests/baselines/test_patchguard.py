"""PatchGuard: the foreground, pasted defects, the losses by hand, and the effect of a short training."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from toy_features import assert_contract, make_context, robust_auroc
from toy_models import generator, random_images
from toy_squares import normal_and_squares

from advrad.baselines.patchguard import (
    PatchGuard,
    PatchGuardOptions,
    divergence_from_uniform,
    fit_patchguard,
    foreground,
    paste_on_foreground,
    patch_losses,
)
from advrad.errors import ConfigError

EPS = 4 / 255
SMALL = PatchGuardOptions(work_px=32, patch_px=4, width=32, blocks=1, heads=2, batch_size=8, learning_rate=3e-3)


@cache
def fitted(eps: float = EPS, steps: int = 120, seed: int = 0, weight: float = 0.01) -> PatchGuard:
    changes = {"attack_eps": eps, "steps": steps, "attention_weight": weight}
    return fit_patchguard(make_context(24, seed=seed), SMALL.model_copy(update=changes))


def disc(size_px: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size_px, :size_px] / size_px
    return (y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.06


def on_background(product: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.01, (3, *product.shape))
    return (0.9 - 0.6 * product + noise).clip(0, 1).astype(np.float32)


def test_contract() -> None:
    assert_contract(fitted(steps=2))


def test_the_foreground_is_the_product_with_its_holes() -> None:
    product = disc()
    found = foreground(on_background(product))
    assert (found & product).sum() / (found | product).sum() > 0.95
    ring = product.copy()
    ring[28:36, 22:30] = False
    assert np.array_equal(foreground(on_background(ring))[28:36, 22:30], np.ones((8, 8), bool))


def test_where_there_is_no_background_all_is_foreground() -> None:
    texture = np.random.default_rng(0).uniform(0, 1, (3, 64, 64)).astype(np.float32)
    assert foreground(texture).all()
    assert foreground(np.full((3, 32, 32), 0.5, np.float32)).all()
    faint = (0.5 + 0.05 * disc() + 0 * texture).astype(np.float32)
    assert foreground(faint).all()


def test_pseudo_anomalies_lie_on_the_foreground_only() -> None:
    product = torch.from_numpy(disc())
    view = torch.from_numpy(np.stack([on_background(disc(), seed) for seed in range(24)]))
    bad, masks = paste_on_foreground(view, generator(1))
    change = (bad - view).abs().amax(1, keepdim=True)
    near = torch.nn.functional.max_pool2d(product[None, None].float(), 5, stride=1, padding=2) > 0
    assert float(change[(~near).expand_as(change)].max()) == 0
    assert not bool(masks[(~near).expand_as(masks)].any())
    changed = masks.sum((1, 2, 3))
    assert bool(((changed >= 4) | (changed == 0)).all())
    assert float((changed > 0).float().mean()) > 0.8
    assert bool((change[masks] > 0.01).all())
    assert float(change[~masks].max()) <= 0.021  # unmarked changes are not visible
    again, _ = paste_on_foreground(view, generator(1))
    assert torch.equal(bad, again)


def test_what_meets_no_foreground_stays_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advrad.baselines.patchguard.foreground", lambda image: np.zeros(image.shape[1:], bool))
    view = random_images(3)
    bad, masks = paste_on_foreground(view, generator(1))
    assert torch.equal(bad, view)
    assert not bool(masks.any())


def test_divergence_of_attention() -> None:
    uniform = torch.full((2, 3, 4, 4), 0.25)
    torch.testing.assert_close(divergence_from_uniform(uniform), torch.zeros(2))
    single = torch.eye(4).expand(2, 3, 4, 4)
    torch.testing.assert_close(divergence_from_uniform(single), torch.full((2,), 4.0).log())
    half = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, 1, 4, 4)
    torch.testing.assert_close(divergence_from_uniform(half), torch.tensor([2.0]).log())


def test_losses_and_score_are_those_of_the_logits() -> None:
    system, view = fitted(steps=2), random_images(3)
    logits, attentions = system.patch_logits(view)
    assert logits.shape == (3, 1, 8, 8)
    assert [attention.shape for attention in attentions] == [(3, 2, 64, 64)]
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(3, 2, 64))
    touched = (torch.rand(3, 1, 8, 8, generator=generator(3)) < 0.2).float()
    p = logits.sigmoid()
    for weight in (1.0, 5.0):
        expected = -(weight * touched * p.log() + (1 - touched) * (1 - p).log()).mean((1, 2, 3))
        torch.testing.assert_close(patch_losses(logits, touched, weight), expected)
    answer = system.infer(view, generator())
    torch.testing.assert_close(answer.scores, logits.flatten(1).sort(1, descending=True).values[:, :3].mean(1))
    assert answer.anomaly_maps is not None and answer.anomaly_maps.shape == (3, 1, 32, 32)


def test_tokens_know_where_they_are_and_see_each_other() -> None:
    system = fitted(steps=2)
    same = torch.full((1, 3, 32, 32), 0.4)
    logits = system.patch_logits(same)[0]
    assert float((logits - logits.mean()).abs().max()) > 1e-4
    spoilt = same.clone()
    spoilt[..., :4, :4] = 1.0
    assert float((system.patch_logits(spoilt)[0] - logits)[0, 0, -1, -1].abs()) > 1e-6


def test_after_a_short_training_pasted_defects_stand_out_and_are_found() -> None:
    system = fitted()
    good, bad = normal_and_squares()
    assert robust_auroc(system, good, bad, 0.0) > 0.95
    spoilt, masks = paste_on_foreground(good, generator(9))
    maps = system.infer(spoilt, generator()).anomaly_maps
    assert maps is not None
    assert float(maps[masks].mean()) > float(maps[~masks].mean()) + 1


def test_the_plain_control_is_the_better_fooled() -> None:
    good, bad = normal_and_squares()
    plain, robust = fitted(0.0), fitted()
    assert robust_auroc(plain, good, bad, 0.0) > 0.95
    assert robust_auroc(robust, good, bad, 8 / 255) > robust_auroc(plain, good, bad, 8 / 255) + 0.3


def test_attention_is_spread_by_its_weight() -> None:
    _, bad = normal_and_squares(8)
    free, spread = (
        divergence_from_uniform(fitted(0.0, weight=weight).patch_logits(bad)[1][0]).mean() for weight in (0.0, 1.0)
    )
    assert float(spread) < 0.5 * float(free)


def test_the_mean_is_that_of_the_good_images() -> None:
    torch.testing.assert_close(fitted(steps=2).mean, make_context(24).normal_images.batch(slice(None)).mean(0))


def test_the_seed_decides() -> None:
    one, other = fitted(steps=3, seed=1), fitted(steps=3, seed=2)
    same = fit_patchguard(make_context(24, seed=1), SMALL.model_copy(update={"attack_eps": EPS, "steps": 3}))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.position_embedding, other.position_embedding)


@pytest.mark.parametrize(
    "values",
    [{"patch_px": 6}, {"work_px": 36}, {"width": 40, "heads": 3}, {"work_px": 16, "patch_px": 16}, {"attack_eps": "x"}],
)
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"grid\.toml: .*(patch|width|eps)"):
        PatchGuardOptions.parse(values, "grid.toml")
