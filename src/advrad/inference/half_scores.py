"""Scores of the halves of a guarded detector on labelled images, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.detectors.guarded_figures import GuardedFigures, HalfFigures
from advrad.inference.figures import share_of

if TYPE_CHECKING:
    from advrad.detectors.exported_config import GuardedRecord
    from advrad.detectors.guarded_config import GuardedConfig

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

    Example:
        >>> one = np.ones(2)
        >>> found = HalfScores(("memory", "features"), np.array([[2.0, 0.0], [0.0, 3.0]]), one, 0.025 * one, one)
        >>> found.suspected.tolist(), found.surprises.tolist()
        ([False, True], [[1.0, -1.0], [-1.0, 2.0]])
    """

    names: tuple[str, ...]
    scores: Floats
    thresholds: Floats
    rates: Floats
    slopes: Floats
    joint: bool = False

    @classmethod
    def of(cls, config: GuardedConfig | GuardedRecord, scores: Sequence[Floats]) -> HalfScores | None:
        """Gather the scores of a guarded detector.

        Args:
            config: Configuration of the detector, or its halves in an export.
            scores: Scores of batches of images, (b, halves) each.

        Returns:
            The scores; None if the detector is not calibrated.
        """
        if not config.tests:
            return None
        columns = [(test.threshold, test.false_alarm_rate, test.slope) for test in config.tests]
        thresholds, rates, slopes = np.array(columns, dtype=np.float64).T
        return cls(config.names, np.concatenate(scores), thresholds, rates, slopes, config.joint)

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
        )
