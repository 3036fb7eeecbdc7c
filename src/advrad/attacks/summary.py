"""The figures of an audit: what the scores found say of clean and attacked images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.attacks.evaluation import RobustnessResult

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


def summarize(
    audit: RobustnessResult, threshold: float | None, masks: Booleans | None, known: Booleans | None
) -> dict[str, Any]:
    """What is reported of an audit, as plain JSON values; None where it cannot be measured.

    Args:
        audit: of n images.
        threshold: verdict defective where score > threshold; None if there is none.
        masks: (n, h, w) ground truth at the maps' size, or None.
        known: (n,) whether the ground truth of an image is known.

    Returns:
        ``clean_auroc``; ``robust_auroc`` with its bootstrap interval ``robust_auroc_ci``, both classes attacked;
        ``robust_auroc_anomalous_only`` and ``robust_auroc_normal_only``, one class attacked; ``robust_auroc_8bit``, the
        same images rounded to 8 bits; ``clean_tpr``, ``clean_fpr``, ``robust_tpr``, ``robust_fpr`` at the threshold;
        ``clean_pixel_auroc``, ``robust_pixel_auroc``, ``clean_aupro``, ``robust_aupro``, of the maps of the same
        images; ``robust_auroc_after``, by member, the worst case of it and those before; ``found_by``, how many of
        the worst images each member found; ``harmless``, how many images nothing harmed; ``gradients``,
        ``queries``, ``seconds``; the plan, and what the detector was found to be.
    """
    labels = np.array([row.label for row in audit.rows])
    clean = np.array([row.clean for row in audit.rows])
    worst = np.array([row.worst for row in audit.rows])
    rounded = np.array([row.rounded for row in audit.rows])
    bad = labels == 1
    both = bool(bad.any() and not bad.all())

    def area(scores: Floats) -> float | None:
        return metrics.auroc(labels, scores) if both else None

    found = [row.by for row in audit.rows]
    return {
        "norm": audit.plan.threat.norm,
        "eps": audit.plan.threat.eps,
        "noise": audit.plan.noise,
        "seed": audit.plan.seed,
        "arithmetic": audit.plan.arithmetic,
        "n_good": int((~bad).sum()),
        "n_defect": int(bad.sum()),
        "clean_auroc": area(clean),
        "robust_auroc": area(worst),
        "robust_auroc_ci": list(metrics.auroc_interval(labels, worst, seed=audit.plan.seed)) if both else None,
        "robust_auroc_anomalous_only": area(np.where(bad, worst, clean)),
        "robust_auroc_normal_only": area(np.where(bad, clean, worst)),
        "robust_auroc_8bit": area(rounded),
        "threshold": threshold,
        "clean_tpr": metrics.share_above(clean[bad], threshold),
        "clean_fpr": metrics.share_above(clean[~bad], threshold),
        "robust_tpr": metrics.share_above(worst[bad], threshold),
        "robust_fpr": metrics.share_above(worst[~bad], threshold),
        **_pixel_figures("clean", audit.clean_maps, masks, known),
        **_pixel_figures("robust", audit.worst_maps, masks, known),
        "robust_auroc_after": {name: area(scores) for name, scores in _cumulative(audit)},
        "found_by": {member.name: found.count(member.name) for member in audit.members},
        "harmless": found.count(""),
        "largest_distance": max(row.distance for row in audit.rows),
        "gradients": sum(row.gradients for row in audit.rows),
        "queries": sum(row.queries for row in audit.rows),
        "seconds": round(sum(row.seconds for row in audit.rows), 1),
        "deterministic": audit.traits.deterministic,
        "differentiable": audit.traits.differentiable,
        "left_out": audit.left_out,
    }


def _cumulative(audit: RobustnessResult) -> list[tuple[str, Floats]]:
    """Worst scores after each member, that member and those before it together."""
    signs = np.array([1.0 if row.label == 0 else -1.0 for row in audit.rows])
    worst = np.array([row.clean for row in audit.rows])
    steps = []
    for member in audit.members:
        here = np.array([row.scores.get(member.name, row.clean) for row in audit.rows])
        worst = np.where(signs * here > signs * worst, here, worst)
        steps.append((member.name, worst))
    return steps


def _pixel_figures(
    name: str, maps: npt.NDArray[np.float32] | None, masks: Booleans | None, known: Booleans | None
) -> dict[str, float | None]:
    usable = maps is not None and masks is not None and known is not None and masks.shape == maps.shape
    seen = masks[known] if usable and masks is not None else np.zeros(0, bool)
    if maps is None or not seen.any() or seen.all():
        return {f"{name}_pixel_auroc": None, f"{name}_aupro": None}
    return {
        f"{name}_pixel_auroc": metrics.pixel_auroc(seen, maps[known]),
        f"{name}_aupro": metrics.aupro(seen, maps[known]),
    }
