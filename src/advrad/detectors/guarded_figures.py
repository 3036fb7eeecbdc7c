"""Figures of a guarded detector on test images, for each of its halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field

from advrad.detectors.verdicts import Verdict
from advrad.utils.config import Config


class WordCounts(Config):
    """Numbers of verdicts of a guarded detector, by the class of the image and the word of the verdict.

    Attributes:
        normal: Numbers of normal images, by word; every word is there.
        anomalous: Numbers of anomalous images, by word.
    """

    normal: dict[Verdict, int]
    anomalous: dict[Verdict, int]

    @classmethod
    def of(cls, words: Sequence[Verdict], labels: Sequence[int]) -> Self:
        """Count words.

        Args:
            words: Words of the verdicts on n images.
            labels: Labels of the images, n: 0 for normal, 1 for anomalous.

        Example:
            >>> WordCounts.of([Verdict.GOOD, Verdict.PROVEN_DEFECTIVE], [0, 1]).found
            1.0
        """
        normal, anomalous = (
            [word for word, own in zip(words, labels, strict=True) if own == label] for label in (0, 1)
        )
        return cls(
            normal={word: normal.count(word) for word in Verdict},
            anomalous={word: anomalous.count(word) for word in Verdict},
        )

    @property
    def found(self) -> float | None:
        """Share of anomalous images that are certainly found: under any attack within the radius; None without any."""
        total = sum(self.anomalous.values())
        return self.anomalous[Verdict.PROVEN_DEFECTIVE] / total if total else None


class HalfFigures(Config):
    """Figures of one half, measured as if it decided alone.

    Attributes:
        auroc: AUROC of its scores; None without images of both classes, or where it failed.
        tpr: Share of anomalous images on which it speaks; None without anomalous images.
        fpr: Share of normal images on which it speaks, and in joint tests the memory does not; None without normal
            images.
        false_alarm_rate: Largest share of normal images on which it may speak, as promised.
    """

    auroc: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    false_alarm_rate: float = Field(gt=0, lt=1)


class GuardedFigures(Config):
    """Figures of the halves of a guarded detector.

    Attributes:
        halves: Figures by name of the half; the memory is the first.
        tpr_all: Share of anomalous images on which every half speaks; None without anomalous images.
        suspected_tpr: Share of anomalous images on which attackable halves alone speak; None without anomalous images.
        suspected_fpr: Share of normal images on which attackable halves alone speak; None without normal images.
        failed: Number of images on which a half failed; they are called defective.
        joint: Whether the promise of the other halves is about images on which the memory is silent.
        words: Numbers of verdicts by their words; None in figures of earlier versions.
        radius: Radius within which verdicts are proven, linf; 0 if nothing is proven.

    Example:
        >>> half = HalfFigures(auroc=0.9, tpr=0.5, fpr=0.0, false_alarm_rate=0.025)
        >>> GuardedFigures(halves={"memory": half, "features": half}, tpr_all=0.4).halves["memory"].auroc
        0.9
    """

    halves: dict[str, HalfFigures]
    tpr_all: float | None = None
    suspected_tpr: float | None = None
    suspected_fpr: float | None = None
    failed: int = Field(0, ge=0)
    joint: bool = False
    words: WordCounts | None = None
    radius: float = Field(0, ge=0)

    @property
    def counted(self) -> list[tuple[str, int, int]]:
        """Words of verdicts with the numbers of anomalous and of normal images; proven ones only where any can be."""
        if self.words is None:
            return []
        proven = (Verdict.PROVEN_DEFECTIVE, Verdict.PROVEN_GOOD)
        given = [word for word in Verdict if self.radius or word not in proven]
        return [(str(word), self.words.anomalous[word], self.words.normal[word]) for word in given]
