"""New thresholds from reviewed images, and what another threshold would change.

A conformal threshold keeps its false-alarm rate if the images that set it are a random sample of the normal ones.
Images that people review because their scores are close to the threshold are not: they say much about the threshold in
use, and nothing about a rate. So a promise is made from the reviewed part of the random order alone, see
:meth:`advrad.serving.store.reviews.Reviews.drawn`; a threshold from all reviewed images is marked as one without a
promise. Scores of the calibration are never mixed in: if they were like those of the line, no new threshold would be
needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from advrad.data.splits import normals_needed, rate_in_reach
from advrad.detectors.config import Calibration
from advrad.detectors.conformal import conformal_threshold
from advrad.errors import ConfigError
from advrad.serving.records import Inspection, ReviewLabel, ThresholdVersion, utc_text

if TYPE_CHECKING:
    from advrad.serving.store import Store

ReviewedImages = Literal["drawn", "all"]
"""The reviewed part of the random order, which keeps the promise; or all reviewed images, which promise nothing."""

#: Confidence of the intervals of :func:`what_if`.
CONFIDENCE = 0.95

_ABOUT_INTERVALS = (
    "The intervals hold for one threshold that was not chosen by looking at these images, and for images like them."
)


class CalibratedProduct(Protocol):
    """What is needed of a product; see :class:`advrad.serving.products.Product`."""

    @property
    def name(self) -> str:
        """Name of the product."""

    @property
    def model(self) -> str:
        """Identity of the model."""

    @property
    def calibration(self) -> Calibration:
        """Threshold of the model folder."""

    @property
    def guarded(self) -> bool:
        """Whether a test for each half decides."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of reviewed images; each different image counts once.

    Attributes:
        good: Scores of images that are good, by the SHA-256 of the image.
        defective: Scores of images that are defective.
        unsure: Number of images of which nobody is sure, or which were called different things.
    """

    good: Mapping[str, float]
    defective: Mapping[str, float]
    unsure: int = 0

    @classmethod
    def of(cls, reviewed: Sequence[Inspection]) -> Sample:
        """Collect reviewed inspections.

        Args:
            reviewed: Inspections with reviews; later ones count where an image was inspected more than once.
        """
        scores: dict[str, float] = {}
        labels: dict[str, set[ReviewLabel]] = {}
        for one in sorted(reviewed, key=lambda inspection: inspection.id):
            if one.review is not None and one.score is not None:
                scores[one.picture] = one.score
                labels.setdefault(one.picture, set()).add(one.review.label)
        good, defective = (
            {picture: scores[picture] for picture, said in labels.items() if said == {label}}
            for label in (ReviewLabel.GOOD, ReviewLabel.DEFECTIVE)
        )
        return cls(good, defective, len(scores) - len(good) - len(defective))

    def threshold(self, false_alarm_rate: float) -> float:
        """Compute the threshold that a new good image exceeds with at most a given probability.

        An unsure image counts as a good one above every threshold, so the promise holds whatever it is.

        Args:
            false_alarm_rate: Promised false-alarm rate, in (0, 1).

        Raises:
            ConfigError: There are too few images.

        Example:
            >>> Sample({str(n): float(n) for n in range(100)}, {}).threshold(0.05)
            95.0
        """
        needed = max(1, normals_needed(false_alarm_rate))
        size = len(self.good) + self.unsure
        rank = max(1, math.ceil((size + 1) * (1 - false_alarm_rate) - 1e-9))
        if rank > len(self.good):
            unsure = ""
            if self.unsure:
                unsure = f", and {self.unsure} unsure ones, each of which counts as one above the threshold"
            reach = ""
            if self.good:
                lowest = rate_in_reach(size, self.unsure + 1)
                reach = f", or accept a rate of {lowest:g} or more" if lowest < 1 else ""
            raise ConfigError(
                f"needs {needed} different images that are reviewed as good; there are {len(self.good)}{unsure}: review"
                f" more{reach}",
                option="false_alarm_rate",
                value=false_alarm_rate,
            )
        return conformal_threshold([*self.good.values(), *[_LARGEST] * self.unsure], false_alarm_rate)


# Stands for a score above every threshold.
_LARGEST = 1.7e308


def new_threshold(
    store: Store,
    product: CalibratedProduct,
    *,
    false_alarm_rate: float,
    by: str,
    images: ReviewedImages = "drawn",
) -> ThresholdVersion:
    """Make a new version of a threshold from images that people reviewed as good. It decides once it is activated.

    Args:
        store: Store of the service.
        product: Product that is served now; scores of other models do not count.
        false_alarm_rate: Largest share of good images that may be called defective, in (0, 1).
        by: Name of the key of the person.
        images: Which reviewed images set it.

    Returns:
        The version; its ``source`` says whether it keeps the rate: ``promise``, and why, in ``words``.

    Raises:
        ConfigError: There are too few images, or a test for each half of the detector decides.
        StoreUnavailable: The database cannot be used now.
    """
    _refuse_guarded(product)
    normals_needed(false_alarm_rate)  # refuses a rate that is out of range
    if images == "drawn":
        reviewed = store.reviews.drawn(product.name, product.model)
        sample = Sample.of(reviewed)
        words = (
            "Set by a random sample of the inspected images, so a good image like them is called defective with at most"
            " the given probability, as far as the reviews are right."
        )
    else:
        sample = Sample(store.reviews.scores(product.name, product.model, ReviewLabel.GOOD), {})
        words = (
            "Set by all images that were reviewed as good. People picked them, often because they are close to the"
            " threshold, so the false-alarm rate is not promised."
        )
    source = {"images": images, "promise": images == "drawn", "words": words, "unsure": sample.unsure}
    return store.thresholds.add(
        product=product.name,
        model=product.model,
        threshold=sample.threshold(false_alarm_rate),
        false_alarm_rate=false_alarm_rate,
        n=len(sample.good) + sample.unsure,
        source=source | {"made": utc_text(datetime.now(UTC))},
        by=by,
        at=datetime.now(UTC),
    )


def what_if(store: Store, product: CalibratedProduct, threshold: float) -> dict[str, Any]:
    """Say what a threshold would do: false alarms by the calibration, and by reviewed images also misses.

    Args:
        store: Store of the service.
        product: Product that is served now.
        threshold: Threshold of the score, finite.

    Returns:
        JSON values: ``threshold``; ``false_alarms`` by the scores of the calibration, None if they are not recorded;
        ``drawn`` with ``false_alarms`` and ``misses`` by the reviewed part of the random order, a random sample;
        ``reviewed`` with the same by all reviewed images, which people picked; ``notes``, sentences to show beside.

    Raises:
        ConfigError: The threshold is not finite, or a test for each half of the detector decides.
        StoreUnavailable: The database cannot be used now.
    """
    _refuse_guarded(product)
    if not math.isfinite(threshold):
        raise ConfigError("must be a finite number", option="threshold", value=threshold)
    scores = product.calibration.scores
    drawn = Sample.of(store.reviews.drawn(product.name, product.model))
    good, bad = (
        store.reviews.scores(product.name, product.model, label) for label in (ReviewLabel.GOOD, ReviewLabel.DEFECTIVE)
    )
    notes = [_ABOUT_INTERVALS]
    if not scores:
        notes.append("The model folder keeps no scores of its calibration, so false alarms are not known from it.")
    if bad or good:
        notes.append(
            "Reviewed images that people picked are not like all images: those close to the threshold are reviewed"
            " first, and defects that nobody saw are missing. The random order of the review queue has no such bias."
        )
    if drawn.unsure:
        notes.append(f"{drawn.unsure} images of the random order are unsure, and count neither way.")
    return {
        "threshold": threshold,
        "false_alarms": _share_above(scores, threshold),
        "drawn": _both(drawn, threshold),
        "reviewed": _both(Sample(good, bad), threshold),
        "notes": notes,
    }


def _both(sample: Sample, threshold: float) -> dict[str, Any]:
    misses = _share_above([-score for score in sample.defective.values()], -threshold, at=True)
    return {"false_alarms": _share_above([*sample.good.values()], threshold), "misses": misses}


def _share_above(scores: Sequence[float], threshold: float, *, at: bool = False) -> dict[str, Any] | None:
    """The share of scores above a threshold, or at it too, with its exact interval; None without scores."""
    if not scores:
        return None
    count = sum(score >= threshold if at else score > threshold for score in scores)
    low, high = exact_interval(count, len(scores))
    return {
        "count": count,
        "n": len(scores),
        "expected": count / len(scores),
        "low": low,
        "high": high,
        "confidence": CONFIDENCE,
    }


def exact_interval(count: int, size: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a probability.

    Args:
        count: How often it happened.
        size: How often it could have happened, >= 1.
        confidence: Least probability with which the interval holds the true value.

    Example:
        >>> [round(bound, 4) for bound in exact_interval(0, 20)]
        [0.0, 0.1684]
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(count, size - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, size - count, 1 - tail)) if count < size else 1.0
    return low, high


def _refuse_guarded(product: CalibratedProduct) -> None:
    if product.guarded:
        raise ConfigError(
            f"{product.name}: is guarded, so a test for each half decides and one threshold suits neither; set both"
            " tests by `advrad calibrate RUN DATA -o NEW` and serve NEW"
        )
