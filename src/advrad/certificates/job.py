"""What certifications of every kind share: a detector, images, a folder, and a result that is stored in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advrad.certificates.attack_results import contradictions, find_attacks
from advrad.certificates.meaning import meaning
from advrad.certificates.results import CertificateFigures, CertificationResult
from advrad.detectors.direction import doubt_scores
from advrad.utils.environment import versions
from advrad.utils.radii import Norm

if TYPE_CHECKING:
    from advrad.certificates.bounds_evaluation import ImageBounds
    from advrad.certificates.evaluation import CertifiedImages, ImageCertificate
    from advrad.detectors.loading import LoadedDetector

#: Rounding to 8 bits changes a value by up to half a level, uniformly distributed: its root mean square.
_ROUNDING = 1 / 255 / 12**0.5


@dataclass(frozen=True, eq=False)
class Job:
    """A certification that is ready to run.

    Attributes:
        loaded: Detector.
        images: Test images.
        folder: Folder for the certificates and the result.
        notes: Notes on the plan for the user.
        own_size: Whether the images have the sizes of their files.
    """

    loaded: LoadedDetector
    images: CertifiedImages
    folder: Path
    notes: tuple[str, ...]
    own_size: bool

    def finish(
        self,
        figures: CertificateFigures,
        rows: tuple[ImageCertificate, ...] | tuple[ImageBounds, ...],
        *,
        method: str,
        norm: Norm = "l2",
        sigma: float | None = None,
        quantile: float | None = None,
        write: bool = True,
    ) -> CertificationResult:
        """Make the result, with what attacks on the same images left, and store it.

        Args:
            figures: Figures of all images.
            rows: Certificates of all images.
            method: Certificate; with ``bounds`` the bounds are exact.
            norm: Norm of the perturbations.
            sigma: Standard deviation of the noise that the certificate adds to the image.
            quantile: Level of the quantile that smooths the score.
            write: Whether this process writes the result.

        Raises:
            OutputError: The folder cannot be written.
        """
        exact = method == "bounds"
        attacked = find_attacks(self.loaded, self.images, norm, same_detector=exact)
        pixels = float(np.median([height * width for height, width in self.images.sizes]))
        result = CertificationResult(
            **dict(figures),
            method=method,
            norm=norm,
            sigma=sigma,
            quantile=quantile,
            size="own" if self.own_size else self.images.sizes[0],
            rounding_l2=_ROUNDING * (3 * pixels) ** 0.5,
            attacked=attacked,
            category=self.images.category,
            folder=str(self.folder),
            versions=versions(),
            notes=self.notes,
            warnings=(*self._doubts(rows), *contradictions(figures.curve, attacked, norm, exact=exact)),
            rows=rows,
        )
        result = result.model_copy(update={"meaning": meaning(result)})
        if write:
            result.save(self.folder)
        return result

    def _doubts(self, rows: tuple[ImageCertificate, ...] | tuple[ImageBounds, ...]) -> tuple[str, ...]:
        """Whether the scores seem to point the wrong way, in words."""
        labels, scores = np.array([row.label for row in rows]), np.array([row.score for row in rows])
        doubt = doubt_scores(labels, scores, from_folder=self.loaded.folder is not None)
        return () if doubt is None else (f"{doubt.words}; {doubt.note}",)
