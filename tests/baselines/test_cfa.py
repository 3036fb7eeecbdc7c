"""CFA: its features, loss and map by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from toy_features import ToyFeatures, assert_contract, make_context
from toy_models import assert_gradient, generator, random_images

from advrad.baselines.cfa import Cfa


def made(seed: int = 0, smooth_px: float = 4.0) -> Cfa:
    return Cfa(32, ToyFeatures(), make_context().images(), generator(seed), smooth_px).eval()


def described(system: Cfa, images: torch.Tensor) -> np.ndarray:
    """(b, 16, 16, 24), by hand: pooled maps concatenated, row and column coordinates, and a matrix."""
    with torch.no_grad():
        maps = [F.avg_pool2d(part, 3, stride=1, padding=1) for part in ToyFeatures()(images)]
        maps = [F.interpolate(part, size=(16, 16), mode="bilinear") for part in maps]
    features = torch.cat(maps, 1).double().numpy().transpose(0, 2, 3, 1)
    place = np.linspace(-1, 1, 16)
    rows, columns = np.broadcast_to(place[:, None], (16, 16)), np.broadcast_to(place[None], (16, 16))
    ends = np.broadcast_to(np.stack([rows, columns], -1), (len(images), 16, 16, 2))
    matrix = system.descriptor.weight.detach().double().numpy()[:, :, 0, 0]
    bias = system.descriptor.bias
    assert bias is not None
    return np.concatenate([features, ends], -1) @ matrix.T + bias.detach().double().numpy()


def test_contract() -> None:
    assert_contract(made())


def test_centres_are_the_mean_features_of_each_position() -> None:
    system = made()
    expected = described(system, make_context().normal_images.batch(slice(None))).mean(0).reshape(256, 24)
    np.testing.assert_allclose(system.centres, expected, rtol=1e-4, atol=1e-5)


def test_loss_and_map_are_the_papers() -> None:
    system, images = made(smooth_px=1.5), random_images(2, seed=4)
    centres = system.centres.double().numpy()
    squared = ((described(system, images).reshape(2, 256, 1, 24) - centres) ** 2).sum(-1)
    three = np.sort(squared, -1)[..., :3]
    losses = 1000 * np.maximum(three - 1e-10, 0).mean((1, 2))
    np.testing.assert_allclose(system.losses(images).detach(), losses, rtol=1e-4)

    distances = np.sqrt(three)
    weights = np.exp(-distances) / np.exp(-distances).sum(-1, keepdims=True)
    errors = torch.from_numpy((weights * distances)[..., 0].reshape(2, 1, 16, 16))
    large = F.interpolate(errors, size=(32, 32), mode="bilinear")[:, 0].numpy()
    expected = [gaussian_filter(one, 1.5, mode="nearest", truncate=3) for one in large]
    answer = system.infer(images, generator())
    assert answer.anomaly_maps is not None
    np.testing.assert_allclose(answer.anomaly_maps[:, 0].detach(), np.stack(expected), rtol=1e-3)
    np.testing.assert_allclose(answer.scores.detach(), np.stack(expected).max((1, 2)), rtol=1e-3)


def test_losses_have_exact_gradients() -> None:
    system = made().double()
    assert_gradient(system.losses, random_images(2, seed=5, dtype=torch.float64))


def test_only_the_descriptor_is_trained_from_seeded_weights() -> None:
    system = made()
    system.losses(random_images(2)).sum().backward()
    moved = {name for name, parameter in system.named_parameters() if parameter.grad is not None}
    assert moved == {"descriptor.weight", "descriptor.bias"}
    assert {id(parameter) for parameter in system.trainable_parameters()} == {
        id(p) for p in system.descriptor.parameters()
    }
    assert torch.equal(made().descriptor.weight, made().descriptor.weight)
    assert not torch.equal(made().descriptor.weight, made(1).descriptor.weight)
