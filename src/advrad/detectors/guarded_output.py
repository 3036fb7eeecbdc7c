"""How the scores and maps of the halves become those of a guarded detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.detectors.base import DetectorOutput
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_halves import HalfOutput
from advrad.detectors.guarded_tests import FAILED_MEMORY, limit, surprise


@dataclass(frozen=True, slots=True)
class GuardedOutput(DetectorOutput):
    """Output of a guarded detector for b images.

    Attributes:
        half_scores: Scores of the halves, (b, halves) float64, the memory's first; NaN where a half failed.
        half_maps: Anomaly maps of the halves, (b, 1, size, size) each, 0 where they start to glow and 1 where normal
            images rarely are; 0 everywhere for a half without maps.
        speaks: Which halves call the images defective, (b, halves) bool.
        errors: Why halves failed, by half and by image; None where they did not.
    """

    half_scores: Tensor | None = None
    half_maps: tuple[Tensor, ...] = ()
    speaks: Tensor | None = None
    errors: tuple[tuple[str | None, ...], ...] = ()


def in_units(values: Tensor, test: HalfTest) -> Tensor:
    """Values of a map in units in which heat maps glow from 0 to 1; rising, so bounds stay bounds.

    Args:
        values: Values of the half's map, any shape.
        test: Test of the half.
    """
    return (values.float() - test.heat_low) / (test.heat_high - test.heat_low)


def resized(maps: Tensor, size_px: int) -> Tensor:
    """Maps, (b, 1, h, w), at the size of the images. Weights are at least 0, so bounds stay bounds."""
    if maps.shape[2:] == (size_px, size_px):
        return maps
    return F.interpolate(maps, size=(size_px, size_px), mode="bilinear", align_corners=False)


def surprise_of(part: HalfOutput, test: HalfTest, stand_in: float) -> Tensor:
    """Surprise of a half, (b,) float64.

    Args:
        part: What the half gives.
        test: Its test.
        stand_in: Surprise where it failed.
    """
    found = surprise(part.scores, test)
    return torch.where(part.failed, torch.full_like(found, stand_in), found)


def join(
    parts: Sequence[HalfOutput], tests: Sequence[HalfTest], ceiling: float, size_px: int
) -> tuple[GuardedOutput, Tensor]:
    """Join what the halves give for b images.

    Args:
        parts: Outputs of the halves, the memory's first.
        tests: Their tests.
        ceiling: Largest surprise of the other halves that counts in the score.
        size_px: Side of the maps.

    Returns:
        The output, and the number of the half that decides the score, (b,).
    """
    memory, *others = parts
    surprises = [surprise_of(memory, tests[0], max(ceiling, FAILED_MEMORY))]
    for part, test in zip(others, tests[1:], strict=True):
        limited = limit(surprise_of(part, test, 0.0), ceiling)
        surprises.append(torch.where(part.failed, torch.full_like(limited, ceiling), limited))
    scores, winners = torch.stack(surprises).max(0)
    raw = torch.stack([part.scores for part in parts], 1)
    failed = torch.stack([part.failed for part in parts], 1)
    thresholds = raw.new_tensor([test.threshold for test in tests])
    speaks = (raw > thresholds) | failed
    half_maps, whole = _join_maps(parts, tests, size_px)
    output = GuardedOutput(
        scores=scores,
        anomaly_maps=whole,
        defective=speaks.any(1),
        half_scores=torch.where(failed, torch.full_like(raw, torch.nan), raw),
        half_maps=half_maps,
        speaks=speaks,
        errors=tuple(part.errors for part in parts),
    )
    return output, winners


def _join_maps(
    parts: Sequence[HalfOutput], tests: Sequence[HalfTest], size_px: int
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Maps of the halves, and the largest of them, in which those of halves without bounds count up to 1."""
    blank = parts[0].scores.new_zeros((len(parts[0].scores), 1, size_px, size_px), dtype=torch.float32)
    half_maps, counted = [], []
    for place, (part, test) in enumerate(zip(parts, tests, strict=True)):
        if part.maps is None:
            half_maps.append(blank)
            continue
        units = resized(in_units(part.maps, test), size_px)
        units = torch.where(part.failed[:, None, None, None], torch.zeros_like(units), units)
        half_maps.append(units)
        counted.append(limit(units, 1.0) if place else units)
    return tuple(half_maps), torch.stack(counted).amax(0) if counted else blank


class GradientGates:
    """Keeps a gradient that is not a number away from images whose score another half decides.

    A half that does not decide passes the gradient 0 on, and 0 times an infinite derivative is NaN. Each half gets
    images of its own, whose gradients are looked at on their way back.

    Example:
        >>> images = torch.zeros(1, 3, 2, 2, requires_grad=True)
        >>> gates = GradientGates()
        >>> root = gates.open(1, images).sum((1, 2, 3)).sqrt()  # its derivative at 0 is infinite
        >>> gates.close(torch.tensor([0]))  # the half 0 decides
        >>> torch.maximum(images.sum((1, 2, 3)) + 1, root).sum().backward()
        >>> images.grad.unique().tolist()
        [1.0]
    """

    def __init__(self) -> None:
        self._opened: list[tuple[int, Tensor]] = []

    def open(self, place: int, images: Tensor) -> Tensor:
        """Images for a half.

        Args:
            place: Number of the half.
            images: Images, (b, 3, h, w).
        """
        if not (torch.is_grad_enabled() and images.requires_grad):
            return images
        own = images.clone()
        self._opened.append((place, own))
        return own

    def close(self, winners: Tensor) -> None:
        """Say which half decides.

        Args:
            winners: Number of the half that decides, (b,).
        """
        for place, own in self._opened:
            decides = (winners == place)[:, None, None, None]
            own.register_hook(partial(_only_numbers, decides))  # type: ignore[no-untyped-call]


def _only_numbers(decides: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, with 0 in place of what is not finite, except in images that the half decides."""
    return torch.where(decides | gradient.isfinite(), gradient, torch.zeros_like(gradient))
