"""A small feature network, the contract of every baseline, and attacks on small baselines."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_models import assert_gradient, generator, random_images, stack

from advrad.attacks.base import AttackInput
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.threat import Threat
from advrad.baselines.base import BaselineDetector, FitContext
from advrad.data.loading import ImageStack
from advrad.data.synthetic import paste_defects
from advrad.detectors.probing import probe, validated_output
from advrad.metrics import auroc


class ToyFeatures(nn.Module):
    """Smooth network with random weights. Gives maps of 6, 8 and 10 channels at 1/2, 1/4 and 1/8 of the image size."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        channels = (3, 6, 8, 10)
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1, dtype=dtype) for i in range(3)
        )
        draws = generator(seed)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(
                    torch.randn(layer.weight.shape, generator=draws) * (2 / layer.weight[0].numel() ** 0.5)
                )
                layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=draws))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, features = [], images
        for layer in self.layers:
            features = F.silu(layer(features))
            maps.append(features)
        return maps


def make_context(count: int = 12, size_px: int = 32, seed: int = 0) -> FitContext:
    return FitContext(stack(count, size_px), seed=seed)


def normal_and_anomalous(count: int, size_px: int = 32, seed: int = 50) -> tuple[Tensor, Tensor]:
    """Make images outside the training set, and as many others with a large synthetic defect each."""
    unseen: ImageStack = stack(2 * count, size_px, seed)
    images = unseen.batch(slice(None))
    bad, _ = paste_defects(images[count:], images[:count], range(count), kinds=("texture",))
    return images[:count], bad


def assert_contract(system: BaselineDetector, size_px: int = 32, maps: bool = True) -> None:
    """Assert that a baseline keeps the detector interface: shapes, independent rows, seeded noise, exact gradients."""
    images = random_images(5, size_px, seed=3)
    output = validated_output(system, images, generator(4))
    if maps:
        assert output.anomaly_maps is not None and output.anomaly_maps.shape == (5, 1, size_px, size_px)
    else:
        assert output.anomaly_maps is None
    assert output.scores.unique().numel() == 5

    # A row does not depend on the others: alone, in another batch, in another place.
    for chosen in ([2], [4, 0], [1, 2, 3]):
        part = validated_output(system, images[chosen], generator(4))
        torch.testing.assert_close(part.scores, output.scores[chosen], rtol=1e-4, atol=1e-6)
        if maps:
            torch.testing.assert_close(part.anomaly_maps, output.anomaly_maps[chosen], rtol=1e-4, atol=1e-6)

    torch.testing.assert_close(validated_output(system, images, generator(4)).scores, output.scores, rtol=0, atol=0)
    properties = probe(system, images)
    assert properties.deterministic == system.deterministic
    assert properties.differentiable == system.differentiable

    exact = copy.deepcopy(system).double()
    point = random_images(2, size_px, seed=6, dtype=torch.float64)
    assert_gradient(lambda x: exact.infer(x, generator(7)).scores, point, directions=4)


def robust_auroc(system: BaselineDetector, good: Tensor, bad: Tensor, eps: float, steps: int = 10) -> float:
    """AUROC after PGD raised scores of normal images and lowered those of anomalous ones; ``eps`` 0 for none."""
    threat = Threat(norm="linf", eps=eps)

    def attacked(images: Tensor, sign: float) -> list[float]:
        if eps > 0:
            draws = [generator(i) for i in range(len(images))]
            images = pgd(
                AttackInput(lambda x: sign * system.infer(x, generator(1)).scores, images, threat, draws, steps)
            ).images
        return validated_output(system, images, generator(2)).scores.tolist()

    scores = attacked(good, 1.0) + attacked(bad, -1.0)
    return auroc([0] * len(good) + [1] * len(bad), scores)
