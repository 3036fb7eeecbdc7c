"""Whether an export answers as the detector that it was made from: the comparison, and the tolerances.

**Tolerances** are chosen from arithmetic, not from images. A score that is off by a random error, whose size is a
share ``r`` of the spread of normal scores, separates normal from anomalous images less well. For normal distributions
of equal spread at a distance d, the AUROC is ``Phi(d / sqrt(2 (1 + r^2)))``, and the error takes no more than
``0.121 r^2`` from it, whatever d. So ``r = 0.2`` takes at most 0.005, and ``r = 0.28`` at most 0.01. Here the largest
difference of an image has to stay below r; the usual one is far smaller. Of a map, half of the range from where heat
maps start to glow to what they outline: twice that would outline a place of a usual normal image.

float32 computes what PyTorch computes, in another order: results differ by parts in a million. A thousandth of the
spread is far more than that, and far less than two images of a product differ by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advrad.detectors.exported_config import ExportPrecision, ParityRecord
from advrad.errors import ExportError

Floats = npt.NDArray[np.float64]

#: Number of images that an error names.
_NAMED = 3
#: Divisor where all scores are 0.
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an export may differ by.

    Attributes:
        score: Largest difference of a score, in units of the spread (standard deviation) of normal scores.
        map: Largest difference of an anomaly map, as a share of its largest value, or of the range of normal maps if
            that is larger.
        flips: Number of calibration images that may have another verdict. The threshold is set anew, so as many normal
            images as before exceed it: with 2, one of them takes the place of another.
        of_score: Whether a score that is larger than the spread is the unit instead: ``|a - b| / max(|b|, spread)``.
            Rounding of float32 grows with the score. For the others that would allow too much: scores may lie far from
            0, and close together.
    """

    score: float
    map: float
    flips: int
    of_score: bool = False


TOLERANCES: Mapping[ExportPrecision, Tolerance] = {
    "float32": Tolerance(score=1e-3, map=1e-3, flips=0, of_score=True),
    "bfloat16": Tolerance(score=0.2, map=0.5, flips=2),
    "int8": Tolerance(score=0.28, map=0.5, flips=2),
}
"""What an export of each precision may differ by."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageParity:
    """What detector and export say about one image.

    Attributes:
        name: Name of the image.
        expected: Score of the detector; of a guarded one also those of its halves, (k,).
        found: The same of the export, (k,).
        map_difference: Largest difference of the anomaly maps.
        height: Largest size of a value of the detector's map.
        expected_defective: Verdict of the detector.
        found_defective: Verdict of the export.
    """

    name: str
    expected: Floats
    found: Floats
    map_difference: float
    height: float
    expected_defective: bool
    found_defective: bool

    @property
    def flipped(self) -> bool:
        """Whether the verdicts differ."""
        return self.expected_defective != self.found_defective


@dataclass(frozen=True, slots=True, eq=False)
class Parity:
    """How far an export is from its detector, image by image.

    Attributes:
        names: Names of the images, n.
        scores: Difference of the score of each image, see :class:`Tolerance`, (n,).
        maps: Difference of the map of each image, (n,).
        flipped: Names of the images with another verdict.

    Example:
        >>> image = ImageParity("a.png", np.array([2.0]), np.array([2.1]), 0.1, 2.0, False, False)
        >>> parity = Parity.of([image, image], np.array([0.5]), heat=1.0, of_score=True)
        >>> round(float(parity.scores[0]), 3), round(float(parity.maps[0]), 3), parity.flipped
        (0.05, 0.05, ())
    """

    names: tuple[str, ...]
    scores: Floats
    maps: Floats
    flipped: tuple[str, ...]

    @classmethod
    def of(cls, images: Sequence[ImageParity], spread: Floats, heat: float, *, of_score: bool) -> Parity:
        """Compare what detector and export say.

        Args:
            images: Calibration images, at least one.
            spread: Standard deviation of normal scores, (k,).
            heat: Range of the values of normal maps, >= 0.
            of_score: Unit of differences of scores, see :class:`Tolerance`.
        """
        expected = np.stack([image.expected for image in images])
        found = np.stack([image.found for image in images])
        unit = np.maximum(spread, np.abs(expected)) if of_score else spread
        heights = np.maximum(np.array([image.height for image in images]), max(heat, _LEAST))
        return cls(
            names=tuple(image.name for image in images),
            scores=np.asarray((np.abs(found - expected) / np.maximum(unit, _LEAST)).max(axis=1)),
            maps=np.array([image.map_difference for image in images]) / heights,
            flipped=tuple(image.name for image in images if image.flipped),
        )

    def record(self, tolerance: Tolerance) -> ParityRecord:
        """The figures, as ``detector.json`` keeps them.

        Args:
            tolerance: What the export may differ by.
        """
        return ParityRecord(
            n=len(self.names),
            score_difference=float(self.scores.max()),
            score_tolerance=tolerance.score,
            map_difference=float(self.maps.max()),
            map_tolerance=tolerance.map,
            flips=len(self.flipped),
            worst=self.names[int(self.scores.argmax())],
        )


def check_parity(parity: Parity, tolerance: Tolerance, precision: ExportPrecision) -> None:
    """Refuse an export that differs from its detector by more than it may.

    Args:
        parity: Comparison on the calibration images.
        tolerance: What the export may differ by.
        precision: Precision of the export.

    Raises:
        ExportError: It differs by more; the images are named.
    """
    reasons = [
        _beyond("scores", parity.names, parity.scores, tolerance.score),
        _beyond("anomaly maps", parity.names, parity.maps, tolerance.map),
    ]
    if len(parity.flipped) > tolerance.flips:
        allowed = f", {tolerance.flips} may" if tolerance.flips else ""
        one = len(parity.flipped) == 1
        reasons.append(
            f"the verdict{'' if one else 's'} of {_listed(parity.flipped)} {'differs' if one else 'differ'}{allowed}"
        )
    if not any(reasons):
        return
    fix = "report this as a bug" if precision == "float32" else "choose float32"
    raise ExportError(
        f"the export in {precision} does not answer as the detector: {'; '.join(filter(None, reasons))}; nothing was"
        f" written: {fix}"
    )


def _beyond(what: str, names: Sequence[str], differences: Floats, tolerance: float) -> str:
    """Which images differ by more than they may; empty if none does."""
    # A difference that is not a number is beyond every tolerance.
    rows = [
        int(row) for row in np.argsort(-np.nan_to_num(differences, nan=np.inf)) if not differences[row] <= tolerance
    ]
    if not rows:
        return ""
    worst = differences[rows[0]]
    return f"{what} differ by up to {worst:.2g}, {tolerance:g} may be ({_listed([names[row] for row in rows])})"


def _listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
