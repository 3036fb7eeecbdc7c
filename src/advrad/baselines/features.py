"""Shared parts of the detectors that work on features of a frozen network.

Such a detector takes a ``network``: a module from images (b, 3, h, w) in [0, 1] to a list of feature maps, the finest
first. The network normalises the images itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator
from torch import Tensor, nn

from advrad.attacks.base import AttackInput
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.threat import Threat
from advrad.errors import ConfigError


def _radius(value: str | float) -> float:
    try:
        return Threat.of("linf", value).eps
    except ConfigError:
        raise ValueError(f"{value!r} must be a number or a fraction from 0 to 1, such as 2/255") from None


#: A ``linf`` radius in [0, 1] pixel units, given as a number or as a fraction such as ``2/255``.
Radius = Annotated[float, BeforeValidator(_radius)]


def imagenet_network(layers: tuple[int, ...]) -> nn.Module:
    """Load EfficientNet-lite0 with ImageNet weights; needs the extra ``anomalib``.

    Args:
        layers: Indices of the feature maps to return, ascending, 0 to 4, at 1/2 to 1/32 of the image's side.

    Returns:
        A frozen network from images to a list of feature maps.
    """
    from advrad.baselines.anomalib.backbone import features

    network: nn.Module = features(layers)
    return network


def gaussian_blur(maps: Tensor, sigma_px: float) -> Tensor:
    """Smooth maps with a Gaussian filter that is truncated at 3 sigma and repeats the border.

    Args:
        maps: Maps, (b, 1, h, w).
        sigma_px: Standard deviation in pixels; 0 returns the maps unchanged.
    """
    if sigma_px == 0:
        return maps
    reach = int(3 * sigma_px + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px).square())
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])


def upsample(maps: Tensor, images: Tensor) -> Tensor:
    """Resize maps (b, 1, h', w') bilinearly to the size of the images."""
    return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)


def adversarial_examples(
    objective: Callable[[Tensor], Tensor], images: Tensor, eps: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Make the images of adversarial training: maximise an objective by projected gradient ascent.

    Args:
        objective: Function to maximise, (b, 3, h, w) -> (b,).
        images: Images, (b, 3, h, w), float in [0, 1].
        eps: Radius of the ``linf`` ball, in [0, 1] pixel units; 0 returns the images unchanged.
        steps: Number of gradient steps, from a random start.
        generator: Source of the random starts.

    Returns:
        For each image the point with the largest objective, (b, 3, h, w) in [0, 1], without gradient.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    if eps == 0:
        return images
    seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pgd(AttackInput(objective, images, Threat(norm="linf", eps=eps), generators, steps)).images
