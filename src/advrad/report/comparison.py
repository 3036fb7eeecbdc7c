"""The comparison of several detectors of one product in a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from advrad.certificates.results import CertificationResult
from advrad.detectors.saved import SavedDetector
from advrad.inference.evaluation import EvaluationResult
from advrad.report.proofs import is_proof

#: Names of the kinds of detectors in a comparison.
_NAMES = {"closed_form": "closed form", "advrad": "learned denoiser", "combined": "both combined"}


@dataclass(frozen=True)
class OtherDetector:
    """Another detector of the product that a report compares with its own.

    Attributes:
        detector: Detector.
        evaluation: Its evaluation on the same test images.
    """

    detector: SavedDetector
    evaluation: EvaluationResult

    @property
    def name(self) -> str:
        """Name of the kind of detector, in words."""
        return kind_name(self.detector)


def kind_name(detector: SavedDetector) -> str:
    """Name the kind of a detector in words, such as ``closed form``.

    Args:
        detector: Detector.
    """
    return _NAMES.get(detector.config.kind, detector.config.kind)


@dataclass(frozen=True, slots=True)
class ComparedFigures:
    """One row of the comparison. A figure is None where it was not measured.

    Attributes:
        name: Name of the detector.
        seconds: Time of training or fitting.
        image_auroc: AUROC over images.
        interval: 95 % interval of ``image_auroc``.
        pixel_auroc: AUROC over pixels.
        aupro: Area under the per-region overlap.
        tpr: Share of anomalous images above the threshold.
        fpr: Share of normal images above the threshold.
        certified: AUROC that no attack within linf 2/255 can undercut; None if nothing is proven.
    """

    name: str
    seconds: float | None
    image_auroc: float | None
    interval: tuple[float, float] | None
    pixel_auroc: float | None
    aupro: float | None
    tpr: float | None
    fpr: float | None
    certified: float | None = None

    @classmethod
    def of(
        cls,
        detector: SavedDetector,
        evaluation: EvaluationResult,
        certificates: Sequence[CertificationResult] = (),
    ) -> ComparedFigures:
        """Gather the figures of a detector.

        Args:
            detector: Detector.
            evaluation: Its evaluation.
            certificates: Its certifications.
        """
        areas = [
            area
            for found in certificates
            if is_proof(found) and found.norm == "linf"
            for radius, area in found.certified_auroc.items()
            if math.isclose(radius, 2 / 255)
        ]
        return cls(
            name=kind_name(detector),
            seconds=detector.config.training.seconds,
            image_auroc=evaluation.image_auroc,
            interval=evaluation.image_auroc_ci,
            pixel_auroc=evaluation.pixel_auroc,
            aupro=evaluation.aupro,
            tpr=evaluation.tpr,
            fpr=evaluation.fpr,
            certified=areas[-1] if areas else None,
        )
