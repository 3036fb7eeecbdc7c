"""Check after an attack on a detector with exact bounds: no attacked score may lie outside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from advrad.attacks.batch_attack import ImageAttackResult
from advrad.attacks.sanity_checks import Flag
from advrad.attacks.threat import Threat
from advrad.detectors.base import SupportsScoreBounds


@dataclass(frozen=True, slots=True)
class BoundViolation:
    """An attacked image whose score lies outside the bounds of the image as given.

    Attributes:
        name: Name of the image.
        attack: Name of the attack; ``clean`` for the image as given; ``verdict`` for an anomalous image that an attack
            made good, although its lower bound is above the threshold.
        score: Score of the attacked image.
        lower: Lower bound.
        upper: Upper bound.
    """

    name: str
    attack: str
    score: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class BoundsCheck:
    """Comparison of attacked scores with the bounds that no perturbation can leave.

    Attributes:
        images: Number of attacked images. Stored as ``pictures``.
        reached: Median over the images of the share of the way from the score to the bound that the worst attack went.
        violations: Scores outside the bounds; each is a bug in the detector's bounds.

    Example:
        >>> BoundsCheck(images=8, reached=0.9, violations=()).flag is None
        True
    """

    images: int
    reached: float
    violations: tuple[BoundViolation, ...]

    @property
    def flag(self) -> Flag | None:
        """The bug as a reason to distrust the result; None if every score is inside its bounds."""
        if not self.violations:
            return None
        first = self.violations[0]
        return Flag(
            "bounds broken",
            f"{len(self.violations)} attacked scores are outside the bounds that no perturbation can leave, such as"
            f" {first.score:.6g} by {first.attack} on {first.name}, outside {first.lower:.6g} to {first.upper:.6g}:"
            " this is a bug in advrad, and certificates of this detector are wrong; please report it",
        )

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON values."""
        return {
            "pictures": self.images,
            "reached": self.reached,
            "violations": [asdict(violation) for violation in self.violations],
        }


def check_bounds(
    detector: SupportsScoreBounds, images: Tensor, rows: Sequence[ImageAttackResult], threat: Threat
) -> BoundsCheck:
    """Compare the scores that attacks found with the bounds of the images as given.

    Args:
        detector: Detector that was attacked.
        images: Images as given, (n, c, h, w), in [0, 1].
        rows: Results of the images, in the same order.
        threat: Threat model of the attacks.

    Returns:
        The comparison.
    """
    violations: list[BoundViolation] = []
    reached = []
    threshold = getattr(detector, "threshold", None)
    for index, row in enumerate(rows):
        # Float rounding may leave an attacked image slightly outside of the ball; it is compared with its own ball.
        radius = max(threat.eps, row.distance)
        bounds = detector.score_bounds(images[index : index + 1], radius, threat.norm)
        lower, upper = float(bounds.lower), float(bounds.upper)
        violations += [
            BoundViolation(row.name, attack, score, lower, upper)
            for attack, score in _scores(row)
            if not lower <= score <= upper
        ]
        if row.label == 1 and row.defective is False and threshold is not None and lower > threshold:
            violations.append(BoundViolation(row.name, "verdict", row.worst, lower, upper))
        edge = lower if row.label else upper
        reached.append((row.worst - row.clean) / (edge - row.clean) if edge != row.clean else 0.0)
    return BoundsCheck(len(rows), float(np.median(reached)), tuple(violations))


def _scores(row: ImageAttackResult) -> Iterator[tuple[str, float]]:
    yield "clean", row.clean
    yield from row.scores.items()
