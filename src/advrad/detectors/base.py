"""What an audit needs of a detector, and how any callable becomes one.

Whoever attacks or certifies knows this form only, so that our detector and anybody else's meet the same code. Resizing
and normalisation happen inside the detector: a threat model lives on the image as given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

#: A score that an attacker may climb in place of the true one: (b, c, h, w) and a source of noise -> (b,).
SurrogateLoss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class DetectorOutput:
    """What a detector says of b images.

    Attributes:
        scores: (b,) larger is more anomalous.
        maps: (b, 1, h, w) where it comes from, or None.
    """

    scores: Tensor
    maps: Tensor | None = None


class AnomalyDetector(Protocol):
    """Any anomaly detector, ours or another."""

    @property
    def size_px(self) -> int | None:
        """Side of the square at which it takes images; None for any size."""

    @property
    def deterministic(self) -> bool:
        """Whether it says that the same image always gets the same score, whatever the generator."""

    @property
    def differentiable(self) -> bool:
        """Whether it says that gradients reach the image."""

    @property
    def threshold(self) -> float | None:
        """Verdict defective where score > threshold; None if it does not decide."""

    @property
    def noise_seed(self) -> int | None:
        """Of the noise that it uses once deployed, the same for every image; None if nobody knows beforehand."""

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Scores that an attacker may climb in place of the true one; what they find is judged by the true one.

        Names that begin with ``part`` mean unbiased parts of the score: their mean is the score's own mean.
        """

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """Score images; row i depends on row i only.

        Args:
            images: (b, c, h, w) float in [0, 1].
            generator: source of all randomness.
        """
