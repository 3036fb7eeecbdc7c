"""How much of the attackable halves' surprise the score of a guarded detector shows: the ceiling.

It is chosen on held-out normal images and the same images with synthetic defects. An attacker can lift every normal
image to the ceiling, where it outranks each defect whose attacked memory score is lower. So the certified AUROC of the
memory must be kept. Of what is left, the best AUROC on clean images is chosen; ties go to the lowest ceiling. Verdicts
do not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from advrad.certificates.lipschitz import certified_auroc
from advrad.detectors.guarded_tests import limit, usable_ceiling
from advrad.metrics import auroc

Floats = npt.NDArray[np.float64]

#: By how much the certified AUROC may lie below that of the memory alone.
KEPT = 0.02
#: Quantiles of the upper bounds of normal images' memory surprise that are tried as ceilings, and one above 0.
QUANTILES = (0.5, 0.75, 0.9, 0.95)
HIGH_CEILING = 0.3
#: Lower quantiles, for products where even the median loses too much; the lowest loses nothing.
_LOWER = (0.25, 0.1, 0.0)
#: Difference up to which AUROCs count as equal.
_SAME_AUROC = 0.002
#: Share of normal images that exceed the score from which the tail is extrapolated.
_TAIL = 0.05
#: Least distance between the median and the tail, as a share of the larger one.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class Judged:
    """Scores of held-out normal images and of images with synthetic defects.

    Attributes:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        memory: Scores of the memory, (n,).
        lower: Lower bounds of the memory's scores, (n,).
        upper: Upper bounds, (n,); infinite where there is none.
        others: Scores of the other halves, (halves, n).
    """

    labels: npt.NDArray[np.int64]
    memory: Floats
    lower: Floats
    upper: Floats
    others: Floats

    @property
    def defects(self) -> npt.NDArray[np.bool_]:
        """Which images have a defect, (n,)."""
        return np.asarray(self.labels == 1)

    @property
    def certified(self) -> float:
        """Certified AUROC of the memory alone."""
        return certified_auroc(self.labels, self.lower, self.upper) or 0.0


@dataclass(frozen=True)
class Tail:
    """An exponential tail of normal scores: the share above ``s`` is ``exp(-slope (s - median)) / 2``.

    Attributes:
        median: Median of the scores.
        slope: Rate of the fall, > 0.

    Example:
        >>> tail = Tail.of(np.arange(100.0))
        >>> round(tail.threshold(0.05), 2), round(float(tail.surprise(np.array([94.05]), 0.05)[0]), 2)
        (94.05, 0.0)
    """

    median: float
    slope: float

    @classmethod
    def of(cls, scores: Floats) -> Tail:
        """Estimate the tail from scores of normal images, (n,), n >= 1."""
        median, high = float(np.median(scores)), float(np.quantile(scores, 1 - _TAIL))
        least = _LEAST_SPREAD * max(abs(median), abs(high), 1e-30)
        return cls(median, math.log(0.5 / _TAIL) / max(high - median, least))

    def threshold(self, false_alarm_rate: float) -> float:
        """Score that a share of the normal images exceeds.

        Args:
            false_alarm_rate: The share, in (0, 1).
        """
        return self.median + math.log(0.5 / false_alarm_rate) / self.slope

    def surprise(self, scores: Floats, false_alarm_rate: float) -> Floats:
        """Surprise of scores, any shape: above 0 where they exceed the threshold of the rate.

        Args:
            scores: Scores.
            false_alarm_rate: Share of normal images that exceed the threshold.
        """
        return np.asarray((scores - self.threshold(false_alarm_rate)) * self.slope)


@dataclass(frozen=True)
class Ceiling:
    """A ceiling, and the score that it makes.

    Attributes:
        value: The ceiling, in surprise.
        clean: AUROC on clean images.
        certified: Certified AUROC.
    """

    value: float
    clean: float
    certified: float

    def __str__(self) -> str:
        return f"ceiling {self.value:.3g}"


def _tails(judged: Judged) -> tuple[Tail, ...]:
    """Tails of all halves, the memory first."""
    normal = ~judged.defects
    return tuple(Tail.of(scores[normal]) for scores in (judged.memory, *judged.others))


def choose_ceiling(judged: Judged, rates: Sequence[float]) -> tuple[Ceiling, tuple[Ceiling, ...]]:
    """Choose the ceiling of the other halves in the score.

    Args:
        judged: Scores of held-out images. Those that set the thresholds may be among them: no verdict depends on the
            ceiling.
        rates: False-alarm rates of the halves' tests, that of the memory first.

    Returns:
        The chosen ceiling, and all that were compared, rising.
    """
    tails, defects = _tails(judged), judged.defects
    memory, lower, upper = (
        tails[0].surprise(scores, rates[0]) for scores in (judged.memory, judged.lower, judged.upper)
    )
    others = np.stack(
        [tail.surprise(s, rate) for tail, s, rate in zip(tails[1:], judged.others, rates[1:], strict=True)]
    )

    def tried(ceiling: float) -> Ceiling:
        limited = limit(torch.from_numpy(others.max(0)), ceiling).numpy()
        clean = auroc(judged.labels, np.maximum(memory, limited))
        # A tie with the ceiling proves nothing, because the score stays below it.
        certified = certified_auroc(judged.labels, lower, np.maximum(upper, ceiling)) or 0.0
        return Ceiling(ceiling, clean, certified)

    normal, least = upper[~defects], judged.certified - KEPT
    compared = [tried(value) for value in _candidates(normal, QUANTILES, HIGH_CEILING)]
    allowed = [one for one in compared if one.certified >= least]
    if not allowed:
        lower_ones = [tried(value) for value in _candidates(normal, _LOWER)]
        kept = [one for one in lower_ones if one.certified >= least]
        allowed = kept[-1:] or lower_ones[:1] or compared[:1]
        compared = sorted({*compared, *lower_ones}, key=lambda one: one.value)
    best = max(one.clean for one in allowed)
    winner = next(one for one in allowed if one.clean >= best - _SAME_AUROC)
    return winner, tuple(compared)


def _candidates(upper: Floats, quantiles: Sequence[float], *others: float) -> list[float]:
    """Ceilings to compare, rising: quantiles of upper bounds, (n,), without infinite ones."""
    found = {float(np.quantile(upper, share, method="lower")) for share in quantiles} | set(others)
    return sorted({usable_ceiling(value) for value in found if math.isfinite(value)})
