"""Measure the properties of a detector: determinism, differentiability, valid output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.detectors.base import AnomalyDetector, DetectorOutput
from advrad.errors import DetectorError


def validated_output(detector: AnomalyDetector, images: Tensor, generator: torch.Generator) -> DetectorOutput:
    """What a detector says, once it is clear that it is an answer. For scoring; gradients are not asked of it.

    Args:
        detector: any.
        images: (b, c, h, w) in [0, 1].
        generator: source of its randomness.

    Returns:
        Scores and maps, float32 on the CPU.

    Raises:
        DetectorError: wrong shape, or not finite.
    """
    with torch.no_grad():
        answer = detector.infer(images, generator)
    scores = answer.scores.detach().float().cpu()
    if scores.shape != (len(images),):
        raise DetectorError(
            f"the detector answered {len(images)} images with scores of shape {tuple(scores.shape)}; it must be"
            f" ({len(images)},)"
        )
    if not bool(torch.isfinite(scores).all()):
        raise DetectorError("the detector answered with a score that is no finite number")
    if answer.maps is None:
        return DetectorOutput(scores)
    maps = answer.maps.detach().float().cpu()
    if maps.ndim != 4 or maps.shape[:2] != (len(images), 1):
        raise DetectorError(
            f"the detector's maps have the shape {tuple(maps.shape)}; it must be ({len(images)}, 1, h, w)"
        )
    if not bool(torch.isfinite(maps).all()):
        raise DetectorError("the detector's map holds a value that is no finite number")
    return DetectorOutput(scores, maps)


@dataclass(frozen=True, slots=True)
class ProbedProperties:
    """What a detector is found to be, whatever it says.

    Attributes:
        deterministic: the same score under other noise.
        differentiable: a gradient reaches the images.
        why_not: why none does.
        agreement: cosine between the gradients of two noise draws, the mean over images; 1 without noise, or without
            a gradient to compare.
    """

    deterministic: bool
    differentiable: bool
    why_not: str = ""
    agreement: float = 1.0


def probe(detector: AnomalyDetector, images: Tensor) -> ProbedProperties:
    """Try a detector on images, (b, c, h, w) in [0, 1]."""
    first, second = (validated_output(detector, images, torch.Generator().manual_seed(seed)).scores for seed in (1, 2))
    deterministic = bool(torch.equal(first, second))
    try:
        one = gradient_of(detector, images, 1)
    except (RuntimeError, NotImplementedError) as error:
        return ProbedProperties(deterministic, False, str(error).strip().splitlines()[0])
    other = one if deterministic else gradient_of(detector, images, 2)
    one, other = (part.double().nan_to_num(0.0, 0.0, 0.0).flatten(1) for part in (one, other))
    alive = (one != 0).any(1) & (other != 0).any(1)
    agreement = torch.cosine_similarity(one[alive], other[alive], dim=1)
    return ProbedProperties(deterministic, True, agreement=float(agreement.mean()) if bool(alive.any()) else 1.0)


def gradient_of(detector: AnomalyDetector, images: Tensor, seed: int) -> Tensor:
    """Gradient of the score by the images, of their shape, on the noise of a seed.

    Raises:
        RuntimeError: none reaches the images.
    """
    point = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        scores = detector.infer(point, torch.Generator().manual_seed(seed)).scores
        (gradient,) = torch.autograd.grad(scores.sum(), point)
    return gradient.detach()
