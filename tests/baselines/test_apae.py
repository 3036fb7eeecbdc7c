"""APAE: its projection, the gradient through it, and its weights by hand."""

from __future__ import annotations

import copy
import itertools
from functools import cache

import torch
from toy_features import assert_contract, make_context, robust_auroc
from toy_models import assert_gradient, generator, random_images
from toy_squares import normal_and_squares

from advrad.baselines.apae import Apae, ApaeOptions, fit_apae
from advrad.baselines.autoencoder import Autoencoder

SMALL = ApaeOptions(work_px=32, channels=(8, 16, 32), latent_channels=4, steps=100, batch_size=8, projection_steps=10)


@cache
def fitted(seed: int = 0, **changes: object) -> Apae:
    return fit_apae(make_context(12, seed=seed), SMALL.model_copy(update=changes))


def test_contract() -> None:
    system = fitted()
    assert not system.training
    assert_contract(system)


def test_the_projection_lowers_the_error_at_every_step() -> None:
    system = fitted()
    good, bad = normal_and_squares(8)
    view = torch.cat([good, bad])
    errors = []
    for steps in (0, 1, 2, 5, 10):
        short = copy.copy(system)
        short.options = system.options.model_copy(update={"projection_steps": steps})
        errors.append((view - short.reconstruct(view)).square().mean((1, 2, 3)))
    plain = (view - system.decode(system.encode(view))).square().mean((1, 2, 3))
    assert torch.equal(errors[0], plain)
    for before, after in itertools.pairwise(errors):
        assert bool((after < before).all())


def test_a_step_is_gradient_descent_by_hand() -> None:
    system = copy.deepcopy(fitted()).double()
    system.options = system.options.model_copy(update={"projection_steps": 1})
    view, latent = (
        random_images(2, dtype=torch.float64),
        torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=generator(1)),
    )
    jacobian = torch.autograd.functional.jacobian(lambda z: system.decode(z[None])[0].flatten(), latent[1])
    slope = jacobian.flatten(1).T @ (system.decode(latent[1:])[0] - view[1]).flatten()
    moved = system.project(view, latent)
    torch.testing.assert_close(moved[1].flatten(), latent[1].flatten() - system.step_size * slope)


def test_gradients_pass_through_the_search() -> None:
    system = copy.deepcopy(fitted()).double()
    view = random_images(2, dtype=torch.float64)
    with torch.no_grad():
        latent = system.encode(view)
    # The gradient in the image alone, with a fixed start, and in the start alone.
    assert_gradient(lambda x: system.project(x, latent), view, directions=3)
    assert_gradient(lambda z: system.project(view, z), latent, directions=3)


def test_callers_without_gradients_get_the_same_and_no_graph() -> None:
    system, images = fitted(), random_images(2)
    with torch.no_grad():
        silent = system.infer(images, generator()).scores
    loud = system.infer(images.clone().requires_grad_(), generator()).scores
    assert loud.requires_grad and not silent.requires_grad
    assert not system.infer(images, generator()).scores.requires_grad
    # Kernels with and without a graph may round differently.
    torch.testing.assert_close(silent, loud.detach(), rtol=1e-5, atol=1e-6)


def test_weights_are_the_medians_of_good_images() -> None:
    system = fitted()
    good = make_context(12).normal_images.batch(slice(None))
    # The lower of the two middle values, as torch defines the median.
    usual = (good - system.reconstruct(good)).square().sort(0).values[5]
    torch.testing.assert_close(system.typical_errors, usual, atol=1e-6, rtol=1e-3)
    images = random_images(2)
    plain = (images - system.reconstruct(images)).square()
    expected = (plain / (usual + 1e-3)).mean(1, keepdim=True)
    answer = system.infer(images, generator())
    assert answer.anomaly_maps is not None
    torch.testing.assert_close(answer.anomaly_maps, expected, rtol=1e-3, atol=1e-5)
    unweighted = fitted(weighted=False).infer(images, generator()).anomaly_maps
    assert unweighted is not None
    torch.testing.assert_close(unweighted, plain.mean(1, keepdim=True))


def test_the_hint_is_the_score_without_the_search() -> None:
    system, images = fitted(), random_images(2)
    short = copy.copy(system)
    short.options = system.options.model_copy(update={"projection_steps": 0})
    expected = short.infer(images, generator()).scores
    torch.testing.assert_close(system.surrogates["without projection"](images, generator()), expected)
    assert not torch.allclose(expected, system.infer(images, generator()).scores, rtol=1e-2)
    assert short.surrogates == {}


def test_the_step_is_the_longest_that_descends() -> None:
    system = Apae(32, SMALL)
    with torch.no_grad():  # a decoder whose curvature is known: 64 outputs, each 0.1 times one latent
        system.decode = lambda latent: 4 * latent.repeat(1, 3, 1, 1)  # type: ignore[method-assign]
        system.encode = lambda view: 0 * view[:, :1]  # type: ignore[method-assign]
        system.choose_step_size(random_images(4))
    # Second derivative 3 * 16 = 48: descent is stable below 2 / 48, so of powers of two 1 / 32, halved.
    assert float(system.step_size) == 1 / 64


def test_defects_stand_out() -> None:
    good, bad = normal_and_squares()
    assert robust_auroc(fitted(), good, bad, 0.0) > 0.9


def test_the_network_is_the_plain_one() -> None:
    assert isinstance(fitted(), Autoencoder)
    # The training uses neither defence, so the weights are the same with and without them.
    bare = fitted(projection_steps=0, weighted=False)
    assert torch.equal(bare.encoder[0][0].weight, fitted().encoder[0][0].weight)


def test_the_seed_decides() -> None:
    one, same, other = (fit_apae(make_context(12, seed=s), SMALL.model_copy(update={"steps": 3})) for s in (1, 1, 2))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.typical_errors, other.typical_errors)
