"""The figures of a certification: what the bounds and verdicts of all images say together."""

from __future__ import annotations

from typing import Any

import numpy as np

from advrad import metrics
from advrad.certificates.evaluation import CertifyPlan, ImageCertificate


def certified_auroc(rows: tuple[ImageCertificate, ...], rung: int) -> float | None:
    """Least AUROC that can be left within a radius, whatever is done to every image at once.

    Args:
        rows: of all images.
        rung: of the radius in the plan's ladder.

    Returns:
        Share of pairs whose anomalous image stays above the good one; a tie counts nothing. None without both kinds.
    """
    low = np.array([-np.inf if row.lower[rung] is None else row.lower[rung] for row in rows if row.label])
    high = np.array([np.inf if row.upper[rung] is None else row.upper[rung] for row in rows if not row.label])
    if not (low.size and high.size):
        return None
    return float((low.astype(float)[:, None] > high.astype(float)[None]).mean())


def summarize(rows: tuple[ImageCertificate, ...], plan: CertifyPlan) -> dict[str, Any]:
    """What is reported of a certification, as plain JSON values.

    Args:
        rows: of all images.
        plan: of the certification.

    Returns:
        ``clean_auroc`` of the smoothed score; ``certified_auroc``, by radius; ``curve``: ``radii``, and over them
        ``certified_auroc``, ``certified_right`` and ``certified_wrong`` (share of verdicts that are certified, and
        agree with what the image is or not; the rest abstain); ``verdicts``, by radius: ``right``, ``wrong``,
        ``abstained``, ``draws_saved`` (share of the draws that a test that stops early does without) and
        ``early_certified`` beside ``certified`` (share of verdicts with and without stopping early);
        ``median_radius``, up to which verdicts are certified right, 0 for all others; the plan.
    """
    labels = np.array([row.label for row in rows])
    both = bool(labels.any() and not labels.all())
    ladder = plan.ladder
    areas = [certified_auroc(rows, rung) for rung in range(len(ladder))]
    result: dict[str, Any] = {
        "draws": plan.draws,
        "confidence": plan.confidence,
        "seed": plan.seed,
        "threshold": plan.threshold,
        "n_good": int((labels == 0).sum()),
        "n_defect": int((labels == 1).sum()),
        "clean_auroc": metrics.auroc(labels, np.array([row.score for row in rows])) if both else None,
        "certified_auroc": {f"{radius:g}": areas[ladder.index(radius)] for radius in plan.radii},
    }
    curve: dict[str, Any] = {"radii": list(ladder), "certified_auroc": areas}
    if plan.threshold is not None:
        shares = [_shares(rows, [row.verdicts[rung] for row in rows]) for rung in range(len(ladder))]
        curve |= {f"certified_{name}": [share[name] for share in shares] for name in ("right", "wrong")}
        result["verdicts"] = {}
        for radius in plan.radii:
            share = shares[ladder.index(radius)]
            # The early tests lie in the order of the ladder.
            place = sorted(plan.radii).index(radius)
            used = np.array([row.early_draws[place] for row in rows])
            early = np.array([row.early[place] != "abstain" for row in rows])
            result["verdicts"][f"{radius:g}"] = share | {
                "certified": share["right"] + share["wrong"],
                "early_certified": float(early.mean()),
                "draws_saved": float(1 - used.mean() / plan.draws),
            }
        right = [row.verdicts[0] == _meant(row) for row in rows]
        reached = [row.radius if hit else 0.0 for row, hit in zip(rows, right, strict=True)]
        result["median_radius"] = float(np.median(reached))
    result["curve"] = curve
    result["seconds"] = round(sum(row.seconds for row in rows), 1)
    return result


def _meant(row: ImageCertificate) -> str:
    return "certified anomalous" if row.label else "certified normal"


def _shares(rows: tuple[ImageCertificate, ...], verdicts: list[str]) -> dict[str, float]:
    right = np.array([verdict == _meant(row) for row, verdict in zip(rows, verdicts, strict=True)])
    abstained = np.array([verdict == "abstain" for verdict in verdicts])
    return {
        "right": float(right.mean()),
        "wrong": float((~right & ~abstained).mean()),
        "abstained": float(abstained.mean()),
    }


def above(result: dict[str, Any]) -> list[str]:
    """Warnings, where more is certified than an attack on the same images left: that cannot be."""
    curve, warnings = result["curve"], []
    for point in result["attacked"]:
        beyond = [
            (radius, area)
            for radius, area in zip(curve["radii"], curve["certified_auroc"], strict=True)
            if radius >= point["eps"] and area is not None and area > point["robust_auroc"]
        ]
        if point["same_pictures"] and beyond:
            radius, area = beyond[0]
            warnings.append(
                f"an AUROC of {area:.4f} is certified at radius {radius:g}, but {point['attack']} at l2"
                f" {point['eps']:g} left {point['robust_auroc']:.4f} of the same images; an attack meets the score"
                " of one run, the certificate the smoothed score: if that does not explain it, distrust the certificate"
            )
    return warnings


def meaning(result: dict[str, Any]) -> list[str]:
    """What the figures of a certification say, and what they do not, in sentences."""
    sure, count = f"{100 * result['confidence']:g} %", result["n_good"] + result["n_defect"]
    sentences = [
        f"At each radius, the bounds of all {count} images hold together with a confidence of {sure}: changes of at"
        " most that l2 length, of every image at once, leave the smoothed score at least the certified AUROC."
    ]
    if result["threshold"] is not None:
        sentences.append(f"Each single verdict holds with a confidence of {sure}.")
    sentences.append(
        f"Mind the scale: rounding a whole image of this size to 8 bits changes it by an l2 of about"
        f" {result['rounding_l2']:.2g}. A certificate says nothing of longer changes, nor of another light, camera or"
        " framing."
    )
    return sentences
