"""Figures of a guarded detector on test images, for each of its halves."""

from __future__ import annotations

from pydantic import Field

from advrad.utils.config import Config


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
