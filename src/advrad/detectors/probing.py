"""Measure the properties of a detector: valid output, determinism, differentiability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.detectors.answers import to_output
from advrad.detectors.base import AnomalyDetector, DetectorOutput, LossFunction
from advrad.detectors.foreign import errors_in_words
from advrad.errors import DetectorError
from advrad.utils.memory import is_out_of_memory

#: Number of images that are scored at a time on a GPU.
_BATCH = 8
#: Differences of scores below the first share of the scores are rounding; those below the second share of their spread
#: do not matter.
_ROUNDING, _SHARE = 1e-5, 0.01

#: What a score that depends on the batch means, in words.
BATCH_WORDS = (
    "the score of an image changes with the images scored beside it, as with batch normalisation in training mode or a"
    " score that is scaled within the batch: put modules in evaluation mode, and score each image on its own"
)


def validated_output(
    detector: AnomalyDetector, images: Tensor, generator: torch.Generator, names: Sequence[str] | None = None
) -> DetectorOutput:
    """Compute a detector's output without gradients, and check its shapes and values.

    Args:
        detector: Detector.
        images: Images, (b, c, h, w), in [0, 1].
        generator: Source of the detector's randomness.

        names: Names of the images for errors, b; None for their positions.

    Returns:
        Scores, float32, or float64 where the detector gives these or whole numbers, and maps, float32, on the CPU.

    Raises:
        DetectorError: The detector fails, or scores or maps have the wrong shape or are not finite.
    """
    ours = type(detector).__module__.startswith("advrad.")
    with torch.no_grad(), nullcontext() if ours else errors_in_words(images):
        answer = detector.infer(images, generator)
    output = to_output(answer, images)
    scores = output.scores.detach().cpu()
    maps = None if output.anomaly_maps is None else output.anomaly_maps.detach().cpu()
    _check_finite(scores, "score", names)
    if maps is not None:
        _check_finite(maps, "map", names)
    verdicts = answer.defective if isinstance(answer, DetectorOutput) else None
    return DetectorOutput(scores, maps, defective=None if verdicts is None else verdicts.cpu())


def _check_finite(values: Tensor, what: str, names: Sequence[str] | None) -> None:
    """Check scores or maps of several images, (b, ...).

    Raises:
        DetectorError: A value is NaN or infinite.
    """
    finite = torch.isfinite(values)
    bad = (~finite).flatten(1).any(1) if values.ndim > 1 else ~finite
    rows: list[int] = bad.nonzero().flatten().tolist()
    if rows:
        first = names[rows[0]] if names is not None else f"image {rows[0] + 1} of {len(values)}"
        found = values[rows[0]][~finite[rows[0]]].flatten()[0].item()
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise DetectorError(
            f"the detector returned a {what} that is not a finite number ({found:g}) for {first}{more}; mend the"
            " detector, so that it is finite for every image"
        )


def score_images(
    detector: AnomalyDetector, images: Tensor, seed: int, names: Sequence[str] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32] | None]:
    """Score images without gradients, each on the same noise.

    Args:
        detector: Detector.
        images: Images, (n, c, h, w), in [0, 1].
        seed: Seed of the noise.
        names: Names of the images for errors, n; None for their positions.

    Returns:
        Scores, (n,), and anomaly maps, (n, h, w), or None for a detector without maps.

    Raises:
        DetectorError: The detector's output is not valid.
    """
    scores, maps, _ = judge_images(detector, images, seed, names)
    return scores, maps


def judge_images(
    detector: AnomalyDetector, images: Tensor, seed: int, names: Sequence[str] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32] | None, npt.NDArray[np.bool_] | None]:
    """Score images as :func:`score_images` does, and keep the verdicts of a detector that gives its own.

    Args:
        detector: Detector.
        images: Images, (n, c, h, w), in [0, 1].
        seed: Seed of the noise.
        names: Names of the images for errors, n; None for their positions.

    Returns:
        Scores, (n,); anomaly maps, (n, h, w), or None; and verdicts, (n,), or None where the verdict is
        ``score > threshold``.

    Raises:
        DetectorError: The detector's output is not valid.
    """
    # One image at a time on a CPU, which costs nothing: some kernels round differently for another batch size.
    at_once = 1 if images.device.type == "cpu" else _BATCH
    named = [f"image {index + 1} of {len(images)}" for index in range(len(images))] if names is None else names
    outputs = [
        validated_output(
            detector,
            images[start : start + at_once],
            torch.Generator().manual_seed(seed),
            named[start : start + at_once],
        )
        for start in range(0, len(images), at_once)
    ]
    scores = torch.cat([output.scores for output in outputs]).double().numpy()
    maps = [output.anomaly_maps for output in outputs if output.anomaly_maps is not None]
    verdicts = [output.defective for output in outputs if output.defective is not None]
    return scores, torch.cat(maps)[:, 0].numpy() if maps else None, torch.cat(verdicts).numpy() if verdicts else None


@dataclass(frozen=True, slots=True)
class ProbedProperties:
    """Properties of a detector that were measured, whatever it declares.

    Attributes:
        deterministic: Whether the scores are the same under other noise.
        differentiable: Whether a gradient reaches the images.
        why_not: Reason why no gradient does.
        agreement: Cosine between the gradients of two noise draws, the mean over images; 1 without noise, or without a
            gradient to compare.
        parts: The same of each surrogate loss of the kind ``part``, by name: a score that is the largest of its parts'
            may hide that one of them draws noise, or has no gradient.

    Example:
        >>> ProbedProperties(deterministic=True, differentiable=False, why_not="it is detached").agreement
        1.0
    """

    deterministic: bool
    differentiable: bool
    why_not: str = ""
    agreement: float = 1.0
    parts: Mapping[str, ProbedProperties] = field(default_factory=dict)


def probe(detector: AnomalyDetector, images: Tensor, names: Sequence[str] | None = None) -> ProbedProperties:
    """Measure the properties of a detector on a few images.

    Args:
        detector: Detector.
        images: Images, (b, c, h, w), in [0, 1].
        names: Names of the images for errors, b; None for their positions.

    Example:
        >>> from advrad.detectors.wrappers import wrap
        >>> probe(wrap(lambda images: images.mean((1, 2, 3))), torch.rand(2, 3, 8, 8)).deterministic
        True
    """
    first, second = (
        validated_output(detector, images, torch.Generator().manual_seed(seed), names).scores for seed in (1, 2)
    )
    losses = {name: loss for name, loss in detector.surrogates.items() if loss.kind == "part"}
    parts = {name: _probed_part(loss, images) for name, loss in losses.items()}
    deterministic = bool(torch.equal(first, second)) and all(part.deterministic for part in parts.values())
    return replace(_probed(_score_of(detector), images, deterministic), parts=parts)


def _probed_part(loss: LossFunction, images: Tensor) -> ProbedProperties:
    """Measure the properties of a part of a score."""
    try:
        with torch.no_grad():
            first, second = (loss(images, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    except DetectorError as error:  # the score goes on without a part that fails
        return ProbedProperties(deterministic=True, differentiable=False, why_not=str(error))
    return _probed(loss, images, bool(torch.equal(first, second)))


def _probed(loss: LossFunction, images: Tensor, deterministic: bool) -> ProbedProperties:
    """Measure whether a gradient of a loss reaches the images, and whether those of two noise draws agree."""
    try:
        one = _gradient(loss, images, 1)
    except (RuntimeError, NotImplementedError, DetectorError) as error:
        if is_out_of_memory(error):
            raise
        return ProbedProperties(deterministic, False, str(error).strip().splitlines()[0])
    other = one if deterministic else _gradient(loss, images, 2)
    one, other = (_in_units(part) for part in (one, other))
    nonzero = (one != 0).any(1) & (other != 0).any(1)
    agreement = torch.cosine_similarity(one[nonzero], other[nonzero], dim=1)
    return ProbedProperties(deterministic, True, agreement=float(agreement.mean()) if bool(nonzero.any()) else 1.0)


def depends_on_batch(detector: AnomalyDetector, images: Tensor, seed: int = 0) -> bool:
    """Whether the score of an image changes with the images beside it. Noise of the detector's own is no such change.

    Args:
        detector: Detector.
        images: A few different images, (b, c, h, w), in [0, 1].
        seed: Seed of the detector's noise.
    """
    if len(images) < 2:
        return False
    together = validated_output(detector, images, torch.Generator().manual_seed(seed)).scores.double().numpy()
    alone = score_images(detector, images, seed)[0]
    tolerance = _ROUNDING * np.abs(alone).max() + _SHARE * np.ptp(alone)
    if (np.abs(together - alone) <= tolerance).all():
        return False
    other = score_images(detector, images, seed + 1)[0]
    return bool((np.abs(other - alone) <= tolerance).all())


def _in_units(gradient: Tensor) -> Tensor:
    """Gradients as rows, (b, values), each divided by its largest value: tiny scores have tiny gradients."""
    rows = gradient.double().nan_to_num(0.0, 0.0, 0.0).flatten(1)
    largest = rows.abs().amax(1, keepdim=True)
    return rows / torch.where(largest > 0, largest, 1.0)


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
    return _gradient(_score_of(detector), images, seed)


def _score_of(detector: AnomalyDetector) -> LossFunction:
    return lambda images, generator: detector.infer(images, generator).scores


def _gradient(loss: LossFunction, images: Tensor, seed: int) -> Tensor:
    """Gradient of a loss, (b, c, h, w), with respect to images of the same shape, on the noise of a seed."""
    point = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = loss(point, torch.Generator().manual_seed(seed))
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return gradient.detach()
