"""Figures that follow from scores, verdicts and anomaly maps of labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.detectors.config import DefectFigures, TestedFigures

Bools = npt.NDArray[np.bool_]


def compute_figures(
    labels: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
    defects: Sequence[str],
    threshold: float | None,
    *,
    defective: Bools | None = None,
    pixels: tuple[Bools, npt.NDArray[np.float32]] | None = None,
    seed: int = 0,
) -> TestedFigures:
    """Compute the figures that follow from scores and anomaly maps.

    Args:
        labels: Labels, (n,) with n >= 1: 0 for normal, 1 for anomalous.
        scores: Scores, (n,), finite.
        defects: Defect names, n.
        threshold: Threshold of the score; None if there is none.
        defective: Verdicts, (n,), of a detector that decides by more than its score; None for score > threshold.
        pixels: Masks and anomaly maps, both (m, h, w), of the images whose mask is known; None if there are none.
        seed: Seed of the bootstrap interval.
    """
    anomalous = labels.astype(bool)
    both = bool(anomalous.any() and not anomalous.all())
    masks, maps = (None, None) if pixels is None else pixels
    measurable = masks is not None and bool(masks.any() and not masks.all())
    called = scores > threshold if defective is None and threshold is not None else defective
    return TestedFigures(
        image_auroc=metrics.auroc(labels, scores) if both else None,
        image_auroc_ci=metrics.auroc_interval(labels, scores, seed=seed) if both else None,
        pixel_auroc=metrics.pixel_auroc(masks, maps) if measurable else None,  # type: ignore[arg-type]
        aupro=metrics.aupro(masks, maps) if measurable else None,  # type: ignore[arg-type]
        tpr=share_of(called, anomalous),
        fpr=share_of(called, ~anomalous),
        threshold=threshold,
        n_normal=int((~anomalous).sum()),
        n_anomalous=int(anomalous.sum()),
        per_defect=figures_by_defect(labels, scores, defects, called),
    )


def figures_by_defect(
    labels: npt.ArrayLike, scores: npt.ArrayLike, defects: Sequence[str], defective: Bools | None
) -> dict[str, DefectFigures]:
    """Compute the figures of each kind of defect.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        scores: Scores, (n,), finite.
        defects: Defect names, n.
        defective: Verdicts, (n,); None if the detector gives none.

    Returns:
        The figures by name of the defect, in alphabetical order.
    """
    anomalous, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    normal = values[~anomalous]
    names = np.array(defects, dtype=object)
    found = {}
    for name in sorted(set(names[anomalous])):
        chosen = anomalous & (names == name)
        part = values[chosen]
        truth = np.repeat([0, 1], [normal.size, part.size])
        area = metrics.auroc(truth, np.concatenate([normal, part])) if normal.size else None
        found[str(name)] = DefectFigures(n=part.size, auroc=area, tpr=share_of(defective, chosen))
    return found


def share_of(verdicts: Bools | None, chosen: Bools) -> float | None:
    """Share of some images that have a verdict.

    Args:
        verdicts: Whether each image has the verdict, (n,); None if the detector gives no verdicts.
        chosen: Which images count, (n,).

    Returns:
        The share, in [0, 1]; None without verdicts or without images.

    Example:
        >>> share_of(np.array([True, False, True]), np.array([True, True, False]))
        0.5
    """
    return float(verdicts[chosen].mean()) if verdicts is not None and chosen.any() else None
