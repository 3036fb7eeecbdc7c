"""Measure the properties of a detector: valid output, determinism, differentiability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.detectors.base import AnomalyDetector, DetectorOutput
from advrad.errors import DetectorError

#: Number of images that are scored at a time on a GPU.
_BATCH = 8


def validated_output(detector: AnomalyDetector, images: Tensor, generator: torch.Generator) -> DetectorOutput:
    """Compute a detector's output without gradients, and check its shapes and values.

    Args:
        detector: Detector.
        images: Images, (b, c, h, w), in [0, 1].
        generator: Source of the detector's randomness.

    Returns:
        Scores and maps, float32 on the CPU.

    Raises:
        DetectorError: Scores or maps have the wrong shape, or are not finite.
    """
    with torch.no_grad():
        output = detector.infer(images, generator)
    scores = output.scores.detach().float().cpu()
    if scores.shape != (len(images),):
        raise DetectorError(
            f"the detector returned scores of shape {tuple(scores.shape)} for {len(images)} images; it must be"
            f" ({len(images)},)"
        )
    if not bool(torch.isfinite(scores).all()):
        raise DetectorError("the detector returned a score that is not a finite number")
    if output.anomaly_maps is None:
        return DetectorOutput(scores)
    maps = output.anomaly_maps.detach().float().cpu()
    if maps.ndim != 4 or maps.shape[:2] != (len(images), 1):
        raise DetectorError(
            f"the detector returned maps of shape {tuple(maps.shape)}; it must be ({len(images)}, 1, h, w)"
        )
    if not bool(torch.isfinite(maps).all()):
        raise DetectorError("the detector returned a map with a value that is not a finite number")
    return DetectorOutput(scores, maps)


def score_images(
    detector: AnomalyDetector, images: Tensor, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32] | None]:
    """Score images without gradients, each on the same noise.

    Args:
        detector: Detector.
        images: Images, (n, c, h, w), in [0, 1].
        seed: Seed of the noise.

    Returns:
        Scores, (n,), and anomaly maps, (n, h, w), or None for a detector without maps.

    Raises:
        DetectorError: The detector's output is not valid.
    """
    # One image at a time on a CPU, which costs nothing: some kernels round differently for another batch size.
    at_once = 1 if images.device.type == "cpu" else _BATCH
    outputs = [
        validated_output(detector, part, torch.Generator().manual_seed(seed)) for part in torch.split(images, at_once)
    ]
    scores = torch.cat([output.scores for output in outputs]).double().numpy()
    maps = [output.anomaly_maps for output in outputs if output.anomaly_maps is not None]
    return scores, torch.cat(maps)[:, 0].numpy() if maps else None


@dataclass(frozen=True, slots=True)
class ProbedProperties:
    """Properties of a detector that were measured, whatever it declares.

    Attributes:
        deterministic: Whether the scores are the same under other noise.
        differentiable: Whether a gradient reaches the images.
        why_not: Reason why no gradient does.
        agreement: Cosine between the gradients of two noise draws, the mean over images; 1 without noise, or without a
            gradient to compare.

    Example:
        >>> ProbedProperties(deterministic=True, differentiable=False, why_not="it is detached").agreement
        1.0
    """

    deterministic: bool
    differentiable: bool
    why_not: str = ""
    agreement: float = 1.0


def probe(detector: AnomalyDetector, images: Tensor) -> ProbedProperties:
    """Measure the properties of a detector on a few images, (b, c, h, w), in [0, 1].

    Example:
        >>> from advrad.detectors.wrappers import wrap
        >>> probe(wrap(lambda images: images.mean((1, 2, 3))), torch.rand(2, 3, 8, 8)).deterministic
        True
    """
    first, second = (validated_output(detector, images, torch.Generator().manual_seed(seed)).scores for seed in (1, 2))
    deterministic = bool(torch.equal(first, second))
    try:
        one = gradient_of(detector, images, 1)
    except (RuntimeError, NotImplementedError) as error:
        return ProbedProperties(deterministic, False, str(error).strip().splitlines()[0])
    other = one if deterministic else gradient_of(detector, images, 2)
    one, other = (part.double().nan_to_num(0.0, 0.0, 0.0).flatten(1) for part in (one, other))
    nonzero = (one != 0).any(1) & (other != 0).any(1)
    agreement = torch.cosine_similarity(one[nonzero], other[nonzero], dim=1)
    return ProbedProperties(deterministic, True, agreement=float(agreement.mean()) if bool(nonzero.any()) else 1.0)


def gradient_of(detector: AnomalyDetector, images: Tensor, seed: int) -> Tensor:
    """Compute the gradient of the scores with respect to the images.

    Args:
        detector: Detector.
        images: Images, (b, c, h, w), in [0, 1].
        seed: Seed of the detector's noise.

    Returns:
        Gradients, (b, c, h, w).

    Raises:
        RuntimeError: No gradient reaches the images.
    """
    point = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        scores = detector.infer(point, torch.Generator().manual_seed(seed)).scores
        (gradient,) = torch.autograd.grad(scores.sum(), point)
    return gradient.detach()
