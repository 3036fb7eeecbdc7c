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
from advrad.detectors.base import SupportsScoreBounds
from advrad.utils.radii import Norm

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
    worst = np.nan_to_num(worst, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
    return metrics.auroc_interval(labels, worst, seed=seed)


def verdict_radius(
    detector: SupportsScoreBounds,
    image: Tensor,
    threshold: float,
    norm: Norm,
    known: Mapping[float, tuple[float, float]] | None = None,
) -> float:
    """Find the largest radius for which the verdict on an image is proven.

    Args:
        detector: Detector with score bounds.
        image: Image, (3, h, w) float in [0, 1].
        threshold: Threshold of the score.
        norm: Norm of the perturbation.
        known: Lower and upper bounds that are known already, by radius; they shorten the search.

    Returns:
        A radius whose own bounds prove the verdict, so it is proven for every smaller one, too. 0 if not even the
        verdict on the image as given is proven. At a radius that is larger by ``LARGEST_RADIUS / 256`` it was not
        proven, unless the result is at least :data:`LARGEST_RADIUS`.
    """

    def margin_at(radius: float) -> float:
        bounds = detector.score_bounds(image[None], radius, norm)
        return _margin(float(bounds.lower), float(bounds.upper), threshold)

    largest = LARGEST_RADIUS[norm]
    step = largest * _RESOLUTION
    search = _Search({radius: _margin(*bounds, threshold) for radius, bounds in (known or {}).items()})
    if search.low >= largest or (search.low == 0 and search.margins.get(0.0, 0.0) < 0):
        return search.low
    while search.high is None:
        middle = min(largest, search.beyond(step))
        search.add(middle, margin_at(middle))
        if search.low >= largest:
            return search.low
    while search.high - search.low > step:
        middle = search.between(step)
        search.add(middle, margin_at(middle))
    return search.low


def _margin(lower: float, upper: float, threshold: float) -> float:
    """How far the bounds of a score are from proving nothing: at least 0 if they prove a verdict, else below 0.

    True bounds widen with the radius, so it falls. Computed ones may be a little tighter at a larger radius, where
    other places get exact bounds; then the search may end early, but never at a radius that is not proven.
    """
    margin = max(lower - threshold, threshold - upper)
    if proven_verdict(lower, upper, threshold) == "not proven":
        return min(margin, -float(np.finfo(np.float64).tiny))
    return max(margin, 0.0)


class _Search:
    """Search for the radius at which a margin becomes negative; ``low`` is always a radius with a margin of at least 0.

    Args:
        margins: Margins that are known, by radius.
    """

    def __init__(self, margins: Mapping[float, float]) -> None:
        self.margins = dict(margins)
        self.count = 0
        #: Largest radius that is known to be proven; 0, if none is.
        self.low = max((radius for radius, margin in margins.items() if margin >= 0), default=0.0)
        #: Smallest larger radius that is not proven; None if none is known.
        self.high = min(
            (radius for radius, margin in margins.items() if margin < 0 and radius > self.low), default=None
        )

    def add(self, radius: float, margin: float) -> None:
        """Add the margin at a radius above ``low`` and below ``high``."""
        self.margins[radius] = margin
        self.count += 1
        if margin >= 0:
            self.low = radius
        else:
            self.high = radius

    def beyond(self, step: float) -> float:
        """A radius above ``low``, where a straight line through two margins predicts the end; infinite without them."""
        proven = sorted(radius for radius in self.margins if radius <= self.low)
        if len(proven) < 2:
            return float("inf")
        first, second = proven[-2:]
        fall = (self.margins[first] - self.margins[second]) / (second - first)
        crossing = second + self.margins[second] / fall if fall > 0 else float("inf")
        # Bounds flatten with the radius, so the end is often further away than the line says.
        return max(crossing + step / 2, 1.5 * self.low, self.low + step)

    def between(self, step: float) -> float:
        """A radius between ``low`` and ``high``, close to the end."""
        low, high = self.low, self.high
        if high is None:
            raise ValueError("the end is not enclosed")
        above, below = self.margins.get(low), self.margins[high]
        # Every third step halves, so that the search is short for margins of any shape.
        if above is None or not np.isfinite(below) or self.count % 3 == 2:
            return (low + high) / 2
        crossing = low + (high - low) * above / (above - below)
        # Just below the predicted end, and then just above it: two such steps enclose it.
        return crossing - step / 2 if crossing - step / 2 > low + step / 2 else low + 0.99 * step
