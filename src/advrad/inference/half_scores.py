"""Scores of the halves of a guarded detector on labelled images, and the figures that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.detectors.guarded_figures import GuardedFigures, HalfFigures, WordCounts
from advrad.detectors.verdicts import Verdict, word_of
from advrad.inference.figures import share_of

if TYPE_CHECKING:
    from advrad.detectors.exported_config import GuardedRecord
    from advrad.detectors.guarded_config import GuardedConfig
    from advrad.detectors.verdicts import HalfReport

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HalfScores:
    """Scores of each half, with its test. The memory is the first half.

    Attributes:
        names: Names of the halves.
        scores: Scores, (n, halves); NaN where a half failed.
        thresholds: Threshold of each half, (halves,); it speaks where its score exceeds it.
        rates: Promised share of normal images on which each half speaks, (halves,).
        slopes: Surprise for each unit of score above the threshold, (halves,).
        joint: Whether the promise of the other halves is about images on which the memory is silent.
        bounds: Lower and upper bounds of the memory's scores within ``radius``, (n, 2), NaN where there are none; None
            to prove nothing.
        radius: Radius within which verdicts are proven, linf; 0 if nothing is proven.

    Example:
        >>> one = np.ones(2)
        >>> found = HalfScores(("memory", "features"), np.array([[2.0, 0.0], [0.0, 3.0]]), one, 0.025 * one, one)
        >>> found.suspected.tolist(), found.surprises.tolist()
        ([False, True], [[1.0, -1.0], [-1.0, 2.0]])
        >>> [str(word) for word in found.words]
        ['defective', 'suspected']
    """

    names: tuple[str, ...]
    scores: Floats
    thresholds: Floats
    rates: Floats
    slopes: Floats
    joint: bool = False
    bounds: Floats | None = None
    radius: float = 0.0

    @classmethod
    def of(cls, config: GuardedConfig | GuardedRecord, reports: Sequence[Sequence[HalfReport]]) -> HalfScores:
        """Gather the scores of a guarded detector.

        Args:
            config: Configuration of the detector, or its halves in an export.
            reports: What each half says about each image, n times (halves,).
        """
        columns = [(test.threshold, test.false_alarm_rate, test.slope) for test in config.tests]
        thresholds, rates, slopes = np.array(columns, dtype=np.float64).T
        scores = np.array([[half.score for half in halves] for halves in reports], dtype=np.float64)
        radius = getattr(config, "radius", 0.0)  # an export proves nothing
        bounds = np.array([[halves[0].lower, halves[0].upper] for halves in reports], dtype=np.float64)
        return cls(
            config.names, scores, thresholds, rates, slopes, config.joint, bounds if radius else None, radius=radius
        )

    @property
    def failed(self) -> Bools:
        """Where a half failed, (n, halves)."""
        return ~np.isfinite(self.scores)

    @property
    def speaks(self) -> Bools:
        """Where a half speaks, (n, halves)."""
        with np.errstate(invalid="ignore"):
            return (self.scores > self.thresholds) & ~self.failed

    @property
    def counted(self) -> Bools:
        """Where a half speaks and its promise counts it, (n, halves)."""
        speaks = self.speaks
        if self.joint:
            speaks[:, 1:] &= ~speaks[:, :1]
        return speaks

    @property
    def surprises(self) -> Floats:
        """How surprising each half finds an image, (n, halves): 0 at its threshold, above 0 where it speaks."""
        return (self.scores - self.thresholds) * self.slopes

    @property
    def suspected(self) -> Bools:
        """Images on which attackable halves alone speak, (n,)."""
        speaks = self.speaks
        return np.asarray(speaks[:, 1:].any(1) & ~speaks[:, 0] & ~self.failed.any(1))

    @property
    def defective(self) -> Bools:
        """Images that are called defective, (n,): a half speaks or failed."""
        return np.asarray((self.speaks | self.failed).any(1))

    @property
    def words(self) -> tuple[Verdict, ...]:
        """The verdicts in words, n."""
        speaks, failed = self.speaks, np.asarray(self.failed.any(1))
        bounds = np.full((len(speaks), 2), np.nan) if self.bounds is None else self.bounds
        return tuple(
            word_of(
                memory_speaks=bool(said[0]),
                others_speak=bool(said[1:].any()),
                failed=bool(lost),
                lower=None if math.isnan(lower) else float(lower),
                upper=None if math.isnan(upper) else float(upper),
                threshold=float(self.thresholds[0]),
            )
            for said, lost, (lower, upper) in zip(speaks, failed, bounds, strict=True)
        )

    def figures(self, labels: npt.NDArray[np.int64]) -> GuardedFigures:
        """Compute the figures of each half.

        Args:
            labels: Labels, (n,): 0 for normal, 1 for anomalous.
        """
        anomalous, speaks, counted = labels.astype(bool), self.speaks, self.counted
        both = bool(anomalous.any() and not anomalous.all())
        halves = {}
        for index, name in enumerate(self.names):
            measurable = both and not self.failed[:, index].any()
            halves[name] = HalfFigures(
                auroc=metrics.auroc(labels, self.scores[:, index]) if measurable else None,
                tpr=share_of(speaks[:, index], anomalous),
                fpr=share_of(counted[:, index], ~anomalous),
                false_alarm_rate=float(self.rates[index]),
            )
        return GuardedFigures(
            halves=halves,
            tpr_all=share_of(np.asarray(speaks.all(1)), anomalous),
            suspected_tpr=share_of(self.suspected, anomalous),
            suspected_fpr=share_of(self.suspected, ~anomalous),
            failed=int(self.failed.any(1).sum()),
            joint=self.joint,
            words=WordCounts.of(self.words, labels.tolist()),
            radius=self.radius,
        )
