"""What the systems that judge by features share: maps side by side, nearest neighbours, a blur, and a training attack.

They are given a ``network``: a module from images (b, 3, h, w) in [0, 1] to a list of feature maps, the finest first.
Scaling to what the network was trained on is its own business.
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

#: Queries whose distances to a whole bank are in memory at a time.
_CHUNK = 256


def _radius(value: str | float) -> float:
    try:
        return Threat.of("linf", value).eps
    except ConfigError:
        raise ValueError(f"{value!r} must be a number or a fraction from 0 to 1, such as 2/255") from None


#: A ``linf`` radius in [0, 1] pixel units; people may write it as a fraction, such as ``2/255``.
Radius = Annotated[float, BeforeValidator(_radius)]


def imagenet(layers: tuple[int, ...]) -> nn.Module:
    """EfficientNet-lite0 with its ImageNet weights; needs the extra ``anomalib``.

    Args:
        layers: which of its five maps (0 to 4, at 1/2 to 1/32 of the image's side), ascending.

    Returns:
        A network as the module's text says, frozen.
    """
    from advrad.baselines.anomalib.backbone import features

    network: nn.Module = features(layers)
    return network


def frozen(network: nn.Module) -> nn.Module:
    """The same network in evaluation mode, its parameters without gradients."""
    return network.eval().requires_grad_(False)


def joined(maps: list[Tensor]) -> Tensor:
    """Feature maps side by side, enlarged to the size of the first.

    Args:
        maps: (b, c_l, h_l, w_l), the finest first.

    Returns:
        (b, sum of c_l, h_0, w_0). Differentiable.
    """
    size = maps[0].shape[-2:]
    larger = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in maps[1:]]
    return torch.cat([maps[0], *larger], dim=1)


def as_positions(maps: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h * w, c): one feature for each position."""
    return maps.flatten(2).transpose(1, 2)


def nearest(queries: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest neighbours of features.

    Which they are is piecewise constant in the queries, so the search needs no gradient; the distances to them are
    computed anew and carry the exact one.

    Args:
        queries: (q, c).
        bank: (n, c).
        count: neighbours asked for; fewer come back if the bank is smaller.

    Returns:
        Squared Euclidean distances, ascending up to rounding, and rows of the bank, (q, min(count, n)) each. The
        distances are differentiable in the queries.
    """
    count = min(count, len(bank))
    with torch.no_grad():
        found = [torch.cdist(part, bank).topk(count, largest=False) for part in torch.split(queries, _CHUNK)]
        rows = torch.cat([part.indices for part in found])
    return (queries[:, None] - bank[rows]).square().sum(2), rows


def blur(maps: Tensor, sigma_px: float) -> Tensor:
    """Gaussian filter of maps (b, 1, h, w), cut off at 3 sigma; 0 leaves them as they are. The border is continued."""
    if sigma_px == 0:
        return maps
    reach = int(3 * sigma_px + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px).square())
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])


def enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (b, 1, h', w') at the size of the images."""
    return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)


def worst(
    objective: Callable[[Tensor], Tensor], images: Tensor, eps: float, steps: int, generator: torch.Generator
) -> Tensor:
    """The images that adversarial training learns from.

    Args:
        objective: (b, 3, h, w) -> (b,), to be made large.
        images: (b, 3, h, w) in [0, 1].
        eps: radius of the ``linf`` ball; 0 leaves the images as they are.
        steps: of projected gradient ascent, from a random start.
        generator: source of the starts.

    Returns:
        The largest objective met on the way for each image, (b, 3, h, w) in [0, 1], a constant.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    if eps == 0:
        return images
    seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pgd(AttackInput(objective, images, Threat(norm="linf", eps=eps), generators, steps)).images
