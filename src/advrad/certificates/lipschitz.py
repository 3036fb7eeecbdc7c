"""What bounds of a score prove, for detectors whose scores can be bounded under every perturbation.

For every image x such a detector gives ``lower <= A(x + d) <= upper`` for all perturbations d within a radius. The
bounds hold with certainty, float rounding included, so there is no confidence level and nothing is drawn:

- **Certified AUROC**: the share of (anomalous, normal) pairs with ``lower(anomalous) > upper(normal)``. No attack on
  all images at once leaves a smaller AUROC.
- **Proven verdicts**: ``proven defective`` if ``lower > threshold``, ``proven good`` if ``upper <= threshold``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.certificates.radii import Norm
from advrad.detectors.base import SupportsScoreBounds

if TYPE_CHECKING:
    from torch import Tensor

ProvenVerdict = Literal["proven defective", "proven good", "not proven"]
Floats = npt.NDArray[np.float64]

#: Largest radius up to which the reach of a verdict is searched, in the norm of the certificate.
LARGEST_RADIUS: dict[Norm, float] = {"linf": 16 / 255, "l2": 8.0}
#: The reach of a verdict is exact to this share of the largest radius.
_RESOLUTION = 1 / 256


def proven_verdict(lower: float, upper: float, threshold: float) -> ProvenVerdict:
    """Decide which verdict the bounds of a score prove.

    Args:
        lower: Lower bound of the score.
        upper: Upper bound of the score.
        threshold: Threshold; the verdict is defective where score > threshold.

    Example:
        >>> proven_verdict(0.6, 0.9, threshold=0.5)
        'proven defective'
    """
    if lower > threshold:
        return "proven defective"
    return "proven good" if upper <= threshold else "not proven"


def certified_auroc(labels: npt.NDArray[np.int64], lower: Floats, upper: Floats) -> float | None:
    """Compute the AUROC that no attack on all images at once can undercut.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        lower: Lower bounds of the scores, (n,).
        upper: Upper bounds of the scores, (n,).

    Returns:
        Share of pairs whose anomalous image certainly has the larger score; None without images of both classes.

    Example:
        >>> certified_auroc(np.array([0, 0, 1]), np.array([0.1, 0.2, 0.5]), np.array([0.3, 0.6, 0.9]))
        0.5
    """
    low, high = lower[labels == 1], upper[labels == 0]
    return float((low[:, None] > high[None]).mean()) if low.size and high.size else None


def certified_auroc_interval(
    labels: npt.NDArray[np.int64], lower: Floats, upper: Floats, *, seed: int
) -> tuple[float, float] | None:
    """Compute a 95 % bootstrap interval of :func:`certified_auroc` over the choice of images.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        lower: Lower bounds of the scores, (n,).
        upper: Upper bounds of the scores, (n,).
        seed: Seed of the resampling.

    Returns:
        Lower and upper end; None without images of both classes.
    """
    if not 0 < labels.sum() < labels.size:
        return None
    # A tie certifies nothing, so the anomalous image of a tie must come below.
    worst = np.where(labels == 1, np.nextafter(lower, -np.inf), upper)
    return metrics.auroc_interval(labels, worst, seed=seed)


def verdict_radius(
    detector: SupportsScoreBounds,
    image: Tensor,
    threshold: float,
    norm: Norm,
    known: Mapping[float, bool] | None = None,
) -> float:
    """Find the largest radius for which the verdict on an image is proven, by bisection.

    Args:
        detector: Detector with score bounds.
        image: Image, (3, h, w) float in [0, 1].
        threshold: Threshold of the score.
        norm: Norm of the perturbation.
        known: Radii for which it is known whether the verdict is proven; they shorten the search.

    Returns:
        A radius for which the verdict is proven. The largest one is at most ``LARGEST_RADIUS / 256`` larger, or it is
        above :data:`LARGEST_RADIUS`. 0 if not even the verdict on the image as given is proven.
    """
    known = known or {}

    def proven(radius: float) -> bool:
        bounds = detector.score_bounds(image[None], radius, norm)
        return proven_verdict(float(bounds.lower), float(bounds.upper), threshold) != "not proven"

    # What is proven for a radius is proven for all smaller ones.
    low = max((radius for radius, holds in known.items() if holds), default=0.0)
    above = [radius for radius, holds in known.items() if not holds and radius > low]
    largest = LARGEST_RADIUS[norm]
    if low >= largest:
        return low
    if not above and proven(largest):
        return largest
    high = min(above, default=largest)
    while high - low > largest * _RESOLUTION:
        middle = (low + high) / 2
        low, high = (middle, high) if proven(middle) else (low, middle)
    return low
