"""Figures of an evaluation of robustness."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.attacks.evaluation import RobustnessResult
from advrad.attacks.options import Noise
from advrad.attacks.plan import GradientPrecision
from advrad.utils.radii import Norm

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

#: JSON names of figures, where they differ from the names in Python.
_JSON_NAMES = {"n_normal": "n_good", "n_anomalous": "n_defect", "gradient_precision": "arithmetic"}


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Verdicts of a detector whose verdict is more than ``score > threshold``, before and under attack.

    Attributes:
        clean_found: Number of anomalous images that are called defective as given.
        found: Number of those that every attack left defective.
        clean_alarms: Number of normal images that are called defective as given.
        alarms: Number of normal images that some attack made defective, or were so as given.
    """

    clean_found: int
    found: int
    clean_alarms: int
    alarms: int


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RobustnessFigures:
    """Figures of clean and attacked images; None where a figure cannot be measured.

    Attributes:
        norm: Norm of the threat model.
        eps: Radius of the threat model.
        noise: Whether the attacker knew the noise: ``unknown`` or ``known``.
        seed: Seed for all random draws.
        gradient_precision: Precision of the gradients.
        n_normal: Number of normal images.
        n_anomalous: Number of anomalous images.
        clean_auroc: AUROC of the images as given.
        robust_auroc: AUROC with both classes attacked.
        robust_auroc_ci: 95 % bootstrap interval of ``robust_auroc``.
        robust_auroc_anomalous_only: AUROC with only anomalous images attacked.
        robust_auroc_normal_only: AUROC with only normal images attacked.
        robust_auroc_8bit: AUROC with the attacked images rounded to 8 bits.
        threshold: Threshold of the detector.
        clean_tpr: Share of anomalous images above the threshold.
        clean_fpr: Share of normal images above the threshold.
        robust_tpr: Share of attacked anomalous images above the threshold.
        robust_fpr: Share of attacked normal images above the threshold.
        clean_pixel_auroc: AUROC over the pixels of the images as given.
        clean_aupro: AUPRO of the images as given.
        robust_pixel_auroc: AUROC over the pixels of the attacked images.
        robust_aupro: AUPRO of the attacked images.
        robust_auroc_after: AUROC after each attack, by name: the worst case of it and all before it.
        found_by: Number of images whose worst case each attack found, by name.
        harmless: Number of images that no attack changed for the worse.
        largest_distance: Largest distance of an attacked image from the given one.
        gradients: Number of gradient evaluations.
        queries: Number of evaluations, with or without gradient.
        seconds: Duration.
        deterministic: Whether the detector was found to be deterministic.
        differentiable: Whether gradients were found to reach the images.
        left_out: Names of attacks that do not suit the detector, with the reason.
        verdicts: Counts of verdicts that are more than ``score > threshold``; None where they are not. Then ``tpr`` and
            ``fpr`` are about the score alone.
    """

    norm: Norm
    eps: float
    noise: Noise
    seed: int
    gradient_precision: GradientPrecision
    n_normal: int
    n_anomalous: int
    clean_auroc: float | None
    robust_auroc: float | None
    robust_auroc_ci: tuple[float, float] | None
    robust_auroc_anomalous_only: float | None
    robust_auroc_normal_only: float | None
    robust_auroc_8bit: float | None
    threshold: float | None
    clean_tpr: float | None
    clean_fpr: float | None
    robust_tpr: float | None
    robust_fpr: float | None
    clean_pixel_auroc: float | None
    clean_aupro: float | None
    robust_pixel_auroc: float | None
    robust_aupro: float | None
    robust_auroc_after: dict[str, float | None]
    found_by: dict[str, int]
    harmless: int
    largest_distance: float
    gradients: int
    queries: int
    seconds: float
    deterministic: bool
    differentiable: bool
    left_out: dict[str, str]
    verdicts: VerdictCounts | None = None

    def figures_to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        names = RobustnessFigures.__dataclass_fields__
        values = {_JSON_NAMES.get(name, name): getattr(self, name) for name in names}
        if self.robust_auroc_ci is not None:
            values["robust_auroc_ci"] = list(self.robust_auroc_ci)
        del values["verdicts"]
        return values if self.verdicts is None else values | {"verdicts": asdict(self.verdicts)}


def summarize(
    result: RobustnessResult, threshold: float | None, masks: Booleans | None, known: Booleans | None
) -> RobustnessFigures:
    """Compute the figures of an evaluation of n images.

    Args:
        result: Result of the evaluation.
        threshold: Threshold of the detector; the verdict is defective where score > threshold. None for none.
        masks: Ground-truth masks at the size of the anomaly maps, (n, h, w); None for none.
        known: Whether the mask of each image is known, (n,); None without masks.
    """
    plan, rows = result.plan, result.rows
    labels = np.array([row.label for row in rows])
    clean, worst, rounded = (np.array([getattr(row, name) for row in rows]) for name in ("clean", "worst", "rounded"))
    anomalous = labels == 1
    both = bool(anomalous.any() and not anomalous.all())

    def area(scores: Floats) -> float | None:
        return metrics.auroc(labels, scores) if both else None

    clean_pixel_auroc, clean_aupro = _pixel_figures(result.clean_maps, masks, known)
    robust_pixel_auroc, robust_aupro = _pixel_figures(result.worst_maps, masks, known)
    found = [row.by for row in rows]
    return RobustnessFigures(
        norm=plan.threat.norm,
        eps=plan.threat.eps,
        noise=plan.noise,
        seed=plan.seed,
        gradient_precision=plan.gradient_precision,
        n_normal=int((~anomalous).sum()),
        n_anomalous=int(anomalous.sum()),
        clean_auroc=area(clean),
        robust_auroc=area(worst),
        robust_auroc_ci=metrics.auroc_interval(labels, worst, seed=plan.seed) if both else None,
        robust_auroc_anomalous_only=area(np.where(anomalous, worst, clean)),
        robust_auroc_normal_only=area(np.where(anomalous, clean, worst)),
        robust_auroc_8bit=area(rounded),
        threshold=threshold,
        clean_tpr=metrics.share_above(clean[anomalous], threshold),
        clean_fpr=metrics.share_above(clean[~anomalous], threshold),
        robust_tpr=metrics.share_above(worst[anomalous], threshold),
        robust_fpr=metrics.share_above(worst[~anomalous], threshold),
        clean_pixel_auroc=clean_pixel_auroc,
        clean_aupro=clean_aupro,
        robust_pixel_auroc=robust_pixel_auroc,
        robust_aupro=robust_aupro,
        robust_auroc_after={name: area(scores) for name, scores in _cumulative(result)},
        found_by={attack.name: found.count(attack.name) for attack in result.attacks},
        harmless=found.count(""),
        largest_distance=max(row.distance for row in rows),
        gradients=sum(row.gradients for row in rows),
        queries=sum(row.queries for row in rows),
        seconds=round(sum(row.seconds for row in rows), 1),
        deterministic=result.properties.deterministic,
        differentiable=result.properties.differentiable,
        left_out=result.left_out,
        verdicts=_verdicts(result, anomalous),
    )


def _verdicts(result: RobustnessResult, anomalous: Booleans) -> VerdictCounts | None:
    """Count verdicts as given and the worst ones; None where they follow from score and threshold."""
    clean = result.clean_verdicts
    if clean is None:
        return None
    worst = np.array([bool(row.defective) for row in result.rows])
    return VerdictCounts(*(int(found[rows].sum()) for rows in (anomalous, ~anomalous) for found in (clean, worst)))


def _cumulative(result: RobustnessResult) -> list[tuple[str, Floats]]:
    """Worst scores of each attack and those before it together."""
    signs = np.array([1.0 if row.label == 0 else -1.0 for row in result.rows])
    worst = np.array([row.clean for row in result.rows])
    steps = []
    for attack in result.attacks:
        own = np.array([row.scores.get(attack.name, row.clean) for row in result.rows])
        worst = np.where(signs * own > signs * worst, own, worst)
        steps.append((attack.name, worst))
    return steps


def _pixel_figures(
    maps: npt.NDArray[np.float32] | None, masks: Booleans | None, known: Booleans | None
) -> tuple[float | None, float | None]:
    """AUROC over pixels and AUPRO; None where maps, or masks with both classes, are missing."""
    if maps is None or masks is None or known is None or masks.shape != maps.shape:
        return None, None
    truth = masks[known]
    if not truth.any() or truth.all():
        return None, None
    return metrics.pixel_auroc(truth, maps[known]), metrics.aupro(truth, maps[known])
