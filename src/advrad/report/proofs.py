"""What a report shows of certificates without randomness: figures over the radius, and a radius per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from advrad.certificates.bounds_evaluation import ImageBounds
from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.prediction import Certifier, ProvenPrediction, prediction_certifier
from advrad.certificates.results import CertificationResult, VerdictShares
from advrad.detectors.base import SupportsScoreBounds
from advrad.utils.formatting import reach_text
from advrad.utils.radii import Norm

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.detectors.saved import SavedDetector

#: What "proven" means, in one sentence.
MEANING = (
    "Proven means: it was computed from the detector and the image, float rounding included, that no change of the"
    " image within the radius, by whatever attack, leads to another verdict; chance plays no part in it."
)


@dataclass(frozen=True, slots=True)
class RadiusRow:
    """What is proven at one radius.

    Attributes:
        radius: Radius as text.
        certified_auroc: AUROC that no attack can undercut.
        interval: 95 % interval of ``certified_auroc`` over the choice of images; None if there is none.
        attacked_auroc: Lowest AUROC that an attack on the same images within this radius left; None without one.
        verdicts: Shares of proven verdicts; None without a threshold.
    """

    radius: str
    certified_auroc: float | None
    interval: tuple[float, float] | None
    attacked_auroc: float | None
    verdicts: VerdictShares | None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """The proven verdict on one image.

    Attributes:
        name: Name of the image.
        defective: Label: whether the image is anomalous.
        score: Anomaly score.
        verdict: Verdict on the image as it is, ``good`` or ``defective``.
        right: Whether the verdict agrees with the label.
        radius: Largest radius for which the verdict is proven, as text; empty if there is none.
    """

    name: str
    defective: bool
    score: float
    verdict: str
    right: bool
    radius: str


@dataclass(frozen=True, eq=False)
class ImageProof:
    """What is proven of one image.

    Attributes:
        text: Verdict and the radius up to which it is proven, such as ``proven good up to linf 2/255``.
        area: Where the anomaly stays above what normal images reach within the radius of the proofs, (h, w).
    """

    text: str
    area: npt.NDArray[np.bool_]


class ImageProofs:
    """Proofs for single images of a report, at the threshold that was set for attacks where there is one.

    Args:
        detector: Detector. Without score bounds or a threshold, it proves nothing.
    """

    def __init__(self, detector: SavedDetector) -> None:
        self._certifier: Certifier | None = None
        self._calibration, robust = detector.config.calibration, detector.config.robust_calibration
        if not isinstance(detector, SupportsScoreBounds) or self._calibration is None:
            return
        norm: Norm = "linf"
        radius = 2 / 255
        if robust is not None and robust.confidence is None:  # set with exact bounds, without noise
            norm, radius = robust.norm, robust.radius
        options = PredictionCertificateOptions(norm=norm, radius=repr(radius))
        self._certifier = prediction_certifier(detector, options)[0]
        self._radius = _place(radius, norm)

    @property
    def area_radius(self) -> str:
        """Norm and radius of the areas, such as ``linf 2/255``; empty if the detector proves nothing."""
        return "" if self._certifier is None else self._radius

    def prove(self, name: str, score: float, image: Tensor, scored: Tensor) -> ImageProof | None:
        """Prove the verdict on an image.

        Args:
            name: Name of the image.
            score: Score of the image; for a guarded detector that of its memory, whose verdict is proven.
            image: Image, (3, h, w), at its own size.
            scored: Image, (3, size, size), as it is scored.

        Returns:
            The proof; None if the detector proves nothing.
        """
        if self._certifier is None or self._calibration is None:
            return None
        found = self._certifier(name, image, scored)
        if not isinstance(found, ProvenPrediction) or found.lower_map is None:
            return None
        whose = "" if found.half is None else f"{found.half} "
        text = f"{whose}not proven"
        if found.reach > 0:
            verdict = "defective" if score > found.threshold else "good"
            text = f"{whose}proven {verdict} up to {_place(found.reach, found.norm)}"
            if found.half is None and found.threshold != self._calibration.threshold:
                text += f", at the threshold under attack {found.threshold:.4g}"
        return ImageProof(text, found.lower_map > found.area_level(self._calibration))


def _place(radius: float, norm: str) -> str:
    return f"{norm} {reach_text(radius, norm)}"


def is_proof(result: CertificationResult) -> bool:
    """Whether a certification has exact bounds, so that it is a proof without randomness.

    Args:
        result: Certification.
    """
    return result.method == "bounds"


def attacked_points(bounds: CertificationResult) -> list[tuple[float, float]]:
    """Collect the lowest AUROC that attacks left of the certified images, by radius.

    Args:
        bounds: Certificates of the images, with the attacks on them.

    Returns:
        Pairs of a radius and the AUROC, radii rising.
    """
    lowest: dict[float, float] = {}
    for point in bounds.attacked:
        if point.same_images:
            lowest[point.eps] = min(point.robust_auroc, lowest.get(point.eps, point.robust_auroc))
    return sorted(lowest.items())


def radius_rows(bounds: CertificationResult) -> list[RadiusRow]:
    """List what is proven at each radius.

    Args:
        bounds: Certificates of the images, with the attacks on them.
    """
    attacked, rows = attacked_points(bounds), []
    for radius, area in bounds.certified_auroc.items():
        # An attack within a smaller radius is one within this radius, too.
        left = [found for eps, found in attacked if eps <= radius * (1 + 1e-9)]
        rows.append(
            RadiusRow(
                radius=reach_text(radius, bounds.norm),
                certified_auroc=area,
                interval=(bounds.certified_auroc_ci or {}).get(radius),
                attacked_auroc=min(left) if left else None,
                verdicts=(bounds.verdicts or {}).get(radius),
            )
        )
    return rows


def image_rows(bounds: CertificationResult) -> list[ImageRow]:
    """List the proven verdict on each image, the smallest radius first.

    Args:
        bounds: Certificates of the images.

    Returns:
        The verdicts; none without a threshold.
    """
    threshold = bounds.threshold
    if threshold is None:
        return []
    rows = sorted(_bounds_of(bounds), key=lambda row: (row.radius or 0.0, row.name))
    return [
        ImageRow(
            name=row.name,
            defective=bool(row.label),
            score=row.score,
            verdict="defective" if row.score > threshold else "good",
            right=(row.score > threshold) == bool(row.label),
            radius=reach_text(row.radius, bounds.norm) if row.radius else "",
        )
        for row in rows
    ]


def _bounds_of(result: CertificationResult) -> list[ImageBounds]:
    return [row for row in result.rows if isinstance(row, ImageBounds)]
