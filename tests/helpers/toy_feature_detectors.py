"""Quick detectors on features: the first stages of EfficientNet-lite0, on small images."""

from __future__ import annotations

import torch
from torch import Tensor
from toy_models import generator

from advrad.detectors.feature_memory import FeatureDetector
from advrad.training.feature_fit import fit_features

SIZE_PX = 32


def normal_images(count: int = 6, seed: int = 0) -> Tensor:
    """Images of one product, (count, 3, 32, 32), that differ by a little noise."""
    common = 0.2 + 0.6 * torch.rand(1, 3, SIZE_PX, SIZE_PX, generator=generator(100))
    noise = torch.randn(count, 3, SIZE_PX, SIZE_PX, generator=generator(seed))
    return (common + 0.03 * noise).clamp(0, 1)


def anomalous_images(count: int = 3, seed: int = 1) -> Tensor:
    """The same with a bright square."""
    images = normal_images(count, seed)
    images[:, :, 10:20, 16:26] = 1.0
    return images


def quick_detector(leave_one_out: bool = False, images: Tensor | None = None) -> FeatureDetector:
    """A detector on features at 1/4 of the images' side, without a threshold."""
    normals = normal_images() if images is None else images
    return fit_features(normals, network="lite0", layers=(1,), leave_one_out=leave_one_out)
