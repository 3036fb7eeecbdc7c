"""FastFlow: invertible couplings, their determinant, and the likelihood."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from toy_features import ToyFeatures, assert_contract
from toy_models import assert_gradient, generator, random_images

from advrad.baselines.fastflow import Coupling, FastFlow


def coupling(channels: int, kernel_px: int, seed: int = 0) -> Coupling:
    """A coupling in float64 that is no longer a mere permutation."""
    made = Coupling(channels, kernel_px, generator(seed)).double()
    with torch.no_grad():
        for parameter in made.last.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator(seed + 1)))
    return made.requires_grad_(False)


def undone(step: Coupling, after: torch.Tensor) -> torch.Tensor:
    """Invert a coupling: shift and scale follow from the half that it kept."""
    seen, moved = after[:, : step.kept], after[:, step.kept :]
    scale, shift = step.last(torch.relu(step.first(seen))).chunk(2, dim=1)
    scale = 4 / math.pi * torch.atan(scale)
    shuffled = torch.cat([seen, (moved - shift) * torch.exp(-scale)], 1)
    return shuffled[:, torch.argsort(step.order)]


def made(seed: int = 0) -> FastFlow:
    """A flow whose couplings scale and shift, unlike at initialisation."""
    system = FastFlow(32, ToyFeatures(), generator(seed), flow_steps=4).eval()
    draws = generator(9)
    with torch.no_grad():
        for parameter in system.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draws))
    return system


@pytest.mark.parametrize(("channels", "kernel_px"), [(2, 1), (4, 3), (5, 3), (5, 1)])
def test_a_coupling_can_be_undone(channels: int, kernel_px: int) -> None:
    step = coupling(channels, kernel_px)
    before = torch.randn(3, channels, 4, 5, generator=generator(3), dtype=torch.float64)
    after, _ = step(before)
    assert not torch.allclose(after.sort(1).values, before.sort(1).values)
    torch.testing.assert_close(undone(step, after), before)


@pytest.mark.parametrize(("channels", "kernel_px"), [(2, 1), (4, 3), (5, 3)])
def test_the_determinant_is_that_of_the_jacobian(channels: int, kernel_px: int) -> None:
    step = coupling(channels, kernel_px)
    points = torch.randn(2, channels, 3, 4, generator=generator(4), dtype=torch.float64)
    _, volumes = step(points)
    for point, volume in zip(points, volumes, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: step(x[None])[0][0], point)
        size = point.numel()
        torch.testing.assert_close(torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet, volume)


def test_scales_are_bounded() -> None:
    step = coupling(4, 1)
    far = 1e6 * torch.randn(1, 4, 3, 3, generator=generator(5), dtype=torch.float64)
    assert float(step(far)[1].abs()) <= 2 * 2 * 9


def test_it_begins_as_a_shuffle() -> None:
    step = Coupling(5, 3, generator())
    features = torch.randn(2, 5, 4, 4, generator=generator(1))
    after, volume = step(features)
    assert torch.equal(after, features[:, step.order])
    assert torch.equal(volume, torch.zeros(2))


def test_contract() -> None:
    assert_contract(made())


def test_loss_is_the_negative_log_likelihood_of_normalised_features() -> None:
    system = made().double()
    images = random_images(2, seed=4, dtype=torch.float64)
    total, squares = torch.zeros(2, dtype=torch.float64), []
    for features, norm, flow in zip(ToyFeatures().double()(images), system.norms, system.flows, strict=True):
        centred = features - features.mean((1, 2, 3), keepdim=True)
        usual = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        latent = usual * norm.weight[:, None, None] + norm.bias[:, None, None]
        volume = torch.zeros(2, dtype=torch.float64)
        for step in flow:
            latent, change = step(latent)
            volume += change
        normal = torch.distributions.Normal(0.0, 1.0)
        size = latent[0].numel()
        likelihood = normal.log_prob(latent).sum((1, 2, 3)) + 0.5 * size * math.log(2 * math.pi) + volume
        total += -likelihood / size
        large = F.interpolate(latent.square().mean(1, keepdim=True) / 2, size=(32, 32), mode="bilinear")
        squares.append(large)
    torch.testing.assert_close(system.losses(images), total)
    answer = system.infer(images, generator())
    torch.testing.assert_close(answer.anomaly_maps, sum(squares) / 3)
    torch.testing.assert_close(answer.scores, (sum(squares) / 3).amax((1, 2, 3)))


def test_losses_have_exact_gradients() -> None:
    assert_gradient(made().double().losses, random_images(2, seed=5, dtype=torch.float64), step=1e-7)


def test_training_moves_norms_and_flows_alone() -> None:
    system = made()
    system.losses(random_images(2)).sum().backward()
    moved = {name for name, parameter in system.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in system.named_parameters() if name.startswith(("norms", "flows"))}
    assert len(system.trainable_parameters()) == len(moved)
    kernels = [step.first.kernel_size[0] for step in system.flows[0]]
    assert kernels == [3, 1, 3, 1]
