"""The figures of a certification with exact bounds: what the bounds of all images prove together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.certificates.bounds_evaluation import BoundsPlan, ImageBounds
from advrad.certificates.lipschitz import ProvenVerdict, certified_auroc, certified_auroc_interval
from advrad.certificates.results import (
    CertificateFigures,
    CertifiedCurve,
    ProvenCounts,
    ProvenVerdicts,
    StickerFigures,
    VerdictShares,
)
from advrad.detectors.guarded_figures import WordCounts

Floats = npt.NDArray[np.float64]

#: Seed of the bootstrap of the intervals.
_INTERVAL_SEED = 0


def summarize_bounds(rows: Sequence[ImageBounds], plan: BoundsPlan) -> CertificateFigures:
    """Compute the figures of a certification with exact bounds.

    Args:
        rows: Bounds of all images, at least one.
        plan: Plan of the certification.

    Returns:
        The figures.
    """
    labels = np.array([row.label for row in rows])
    scores = np.array([row.score for row in rows])
    lower = np.array([[-np.inf if bound is None else bound for bound in row.lower] for row in rows]).T  # (radii, n)
    upper = np.array([[np.inf if bound is None else bound for bound in row.upper] for row in rows]).T
    clean = metrics.auroc(labels, scores) if 0 < labels.sum() < labels.size else None
    areas, intervals = {}, {}
    for index, radius in enumerate(plan.radii):
        areas[radius] = certified_auroc(labels, lower[index], upper[index])
        intervals[radius] = certified_auroc_interval(labels, lower[index], upper[index], seed=_INTERVAL_SEED)
    proven = verdicts = median_radius = None
    if plan.threshold is not None:
        given = [[row.verdicts[index] for row in rows] for index in range(len(plan.radii))]
        proven = {radius: _counts(labels, found) for radius, found in zip(plan.radii, given, strict=True)}
        verdicts = {radius: _shares(counts) for radius, counts in proven.items()}
        right = (scores > plan.threshold) == (labels == 1)
        median_radius = float(np.median(np.where(right, [row.radius or 0.0 for row in rows], 0.0)))
    return CertificateFigures(
        threshold=plan.threshold,
        n_normal=int((labels == 0).sum()),
        n_anomalous=int((labels == 1).sum()),
        clean_auroc=clean,
        certified_auroc=areas,
        certified_auroc_ci=intervals,
        verdicts=verdicts,
        proven=proven,
        words=_words(rows, plan, labels),
        sticker=_sticker(rows, plan, labels, scores),
        median_radius=median_radius,
        curve=_curve(plan, labels, scores, areas, verdicts, clean),
        seconds=round(sum(row.seconds for row in rows), 1),
    )


def _counts(labels: npt.NDArray[np.int64], verdicts: Sequence[ProvenVerdict]) -> ProvenVerdicts:
    """Count the verdicts at one radius by the class of the image."""

    def of_class(label: int) -> ProvenCounts:
        found = [verdict for verdict, own in zip(verdicts, labels, strict=True) if own == label]
        return ProvenCounts(
            defective=found.count("proven defective"),
            good=found.count("proven good"),
            not_proven=found.count("not proven"),
        )

    return ProvenVerdicts(normal=of_class(0), anomalous=of_class(1))


def _words(
    rows: Sequence[ImageBounds], plan: BoundsPlan, labels: npt.NDArray[np.int64]
) -> dict[float, WordCounts] | None:
    """Count the words of verdicts at each radius by the class of the image; None for a detector that is not guarded."""
    if not all(row.words for row in rows):
        return None
    return {
        radius: WordCounts.of([row.words[place] for row in rows], labels.tolist())
        for place, radius in enumerate(plan.radii)
    }


def _shares(counts: ProvenVerdicts) -> VerdictShares:
    """Shares of proven verdicts among all images."""
    normal, anomalous = counts.normal, counts.anomalous
    abstained = normal.not_proven + anomalous.not_proven
    right, wrong = normal.good + anomalous.defective, normal.defective + anomalous.good
    total = right + wrong + abstained
    return VerdictShares(
        right=right / total, wrong=wrong / total, abstained=abstained / total, certified=(right + wrong) / total
    )


def _curve(
    plan: BoundsPlan,
    labels: npt.NDArray[np.int64],
    scores: Floats,
    areas: dict[float, float | None],
    verdicts: dict[float, VerdictShares] | None,
    clean: float | None,
) -> CertifiedCurve:
    """The figures over the radius. At radius 0 nothing is changed, so the scores themselves count."""
    points = dict(areas) if 0 in areas else {0.0: clean} | areas
    right = wrong = None
    if plan.threshold is not None and verdicts is not None:
        share = float(((scores > plan.threshold) == (labels == 1)).mean())
        shares = {0.0: (share, 1 - share)} | {radius: (held.right, held.wrong) for radius, held in verdicts.items()}
        right, wrong = (tuple(shares[radius][side] for radius in points) for side in (0, 1))
    return CertifiedCurve(
        radii=tuple(points), certified_auroc=tuple(points.values()), certified_right=right, certified_wrong=wrong
    )


def _sticker(
    rows: Sequence[ImageBounds], plan: BoundsPlan, labels: npt.NDArray[np.int64], scores: Floats
) -> StickerFigures | None:
    """What a sticker leaves of the anomalous images; None if it was not asked for."""
    if plan.sticker_px is None:
        return None
    nothing = min([*scores, *(row.sticker for row in rows if row.sticker is not None)]) - 1.0
    left = np.array([nothing if row.sticker is None else row.sticker for row in rows])
    worst = np.where(labels == 1, left, scores)
    return StickerFigures(
        side_px=plan.sticker_px,
        found=metrics.share_above(left[labels == 1], plan.threshold),
        clean_found=metrics.share_above(scores[labels == 1], plan.threshold),
        auroc=metrics.auroc(labels, worst) if 0 < labels.sum() < labels.size else None,
    )
