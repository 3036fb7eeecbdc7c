"""A model of anomalib that cuts gradients in every way that its models do."""

from __future__ import annotations

from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components.base import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize


class CutGradients(nn.Module):
    """Network that scores images by their nearest stored feature vector, with the gradient cut at every step."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Conv2d(4, 4, 3, 2)).requires_grad_(False)
            self.register_buffer("memory", torch.randn(5, 4))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return self.network(images).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> InferenceBatch:
        features = self.features(images).detach()
        squared = (features[:, :, None] - self.memory).square().sum(-1)
        with torch.no_grad():
            distances = squared.clamp_min_(0).sqrt_().amin(2)
        side = round(distances.shape[1] ** 0.5)
        maps = torch.detach(distances.unflatten(1, (1, side, side)))
        if self.mixes:
            maps = maps / maps.max()
        return InferenceBatch(pred_score=maps.amax((-2, -1)), anomaly_map=maps)


class Toy(AnomalibModule):
    """Model of anomalib with this network."""

    def __init__(self, size: tuple[int, int] = (16, 16), mixes: bool = False) -> None:
        transform = Compose([Resize(size, antialias=True), Normalize([0.4] * 3, [0.2] * 3)])
        super().__init__(pre_processor=PreProcessor(transform), evaluator=False, visualizer=False)
        self.model = CutGradients(mixes)

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {}
