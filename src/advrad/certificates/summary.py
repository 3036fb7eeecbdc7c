"""The figures of a certification: what the certificates of all images say together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advrad import metrics
from advrad.certificates.evaluation import CertifyPlan, ImageCertificate
from advrad.certificates.results import CertificateFigures, CertifiedCurve, VerdictShares
from advrad.certificates.sequential import ABSTAIN, Verdict


def certified_auroc(rows: Sequence[ImageCertificate], index: int) -> float | None:
    """Compute the certified AUROC: no perturbation of all images within the radius leaves less.

    Args:
        rows: Certificates of all images.
        index: Index of the radius in the plan's grid.

    Returns:
        Share of pairs whose anomalous image certainly has the larger score; ties count as 0. None without images of
        both classes.
    """
    low = np.array([-np.inf if row.lower[index] is None else row.lower[index] for row in rows if row.label])
    high = np.array([np.inf if row.upper[index] is None else row.upper[index] for row in rows if not row.label])
    if not (low.size and high.size):
        return None
    return float((low.astype(float)[:, None] > high.astype(float)[None]).mean())


def summarize(rows: Sequence[ImageCertificate], plan: CertifyPlan) -> CertificateFigures:
    """Compute the figures of a certification.

    Args:
        rows: Certificates of all images, at least one.
        plan: Plan of the certification.

    Returns:
        The figures.
    """
    labels = np.array([row.label for row in rows])
    both = bool(labels.any() and not labels.all())
    grid = plan.radius_grid
    areas = [certified_auroc(rows, index) for index in range(len(grid))]
    right = wrong = verdicts = median_radius = None
    if plan.threshold is not None:
        shares = [_right_and_wrong(rows, [row.verdicts[index] for row in rows]) for index in range(len(grid))]
        right, wrong = (tuple(side) for side in zip(*shares, strict=True))
        verdicts = {radius: _verdict_shares(rows, plan, radius, shares[grid.index(radius)]) for radius in plan.radii}
        reached = [row.radius if row.verdicts[0] == _true_verdict(row) else 0.0 for row in rows]
        median_radius = float(np.median(reached))
    return CertificateFigures(
        n_samples=plan.n_samples,
        confidence=plan.confidence,
        seed=plan.seed,
        threshold=plan.threshold,
        n_normal=int((labels == 0).sum()),
        n_anomalous=int((labels == 1).sum()),
        clean_auroc=metrics.auroc(labels, np.array([row.score for row in rows])) if both else None,
        certified_auroc={radius: areas[grid.index(radius)] for radius in plan.radii},
        verdicts=verdicts,
        median_radius=median_radius,
        curve=CertifiedCurve(radii=grid, certified_auroc=tuple(areas), certified_right=right, certified_wrong=wrong),
        seconds=round(sum(row.seconds for row in rows), 1),
    )


def _verdict_shares(
    rows: Sequence[ImageCertificate], plan: CertifyPlan, radius: float, right_and_wrong: tuple[float, float]
) -> VerdictShares:
    """Shares of certified verdicts at a requested radius."""
    right, wrong = right_and_wrong
    place = sorted(plan.radii).index(radius)  # the early tests are in increasing order of the radius
    used = np.array([row.early_n_samples[place] for row in rows])
    early = np.array([row.early[place] != ABSTAIN for row in rows])
    abstained = np.array([row.verdicts[plan.radius_grid.index(radius)] == ABSTAIN for row in rows])
    return VerdictShares(
        right=right,
        wrong=wrong,
        abstained=float(abstained.mean()),
        certified=right + wrong,
        early_certified=float(early.mean()),
        samples_saved=float(1 - used.mean() / plan.n_samples),
    )


def _true_verdict(row: ImageCertificate) -> Verdict:
    return "certified anomalous" if row.label else "certified normal"


def _right_and_wrong(rows: Sequence[ImageCertificate], verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Shares of certified verdicts that agree with the label, and that contradict it."""
    right = np.array([verdict == _true_verdict(row) for row, verdict in zip(rows, verdicts, strict=True)])
    abstained = np.array([verdict == ABSTAIN for verdict in verdicts])
    return float(right.mean()), float((~right & ~abstained).mean())
