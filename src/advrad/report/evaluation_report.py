"""The report of an evaluation: one HTML file without scripts, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from advrad.certificates.results import CertificationResult
from advrad.data.png import to_levels
from advrad.errors import DataError
from advrad.inference import heatmaps as overlay
from advrad.inference.figures import figures_by_defect
from advrad.report.certificate_plots import certificate_plot
from advrad.report.comparison import ComparedFigures
from advrad.report.halves import Halves, halves_section
from advrad.report.plots import curve_plot, loss_plot, roc_plot
from advrad.report.proofs import MEANING, attacked_points, image_rows, is_proof, radius_rows
from advrad.report.registration import RegisteredImage
from advrad.report.rendering import page
from advrad.report.score_plot import histogram_plot
from advrad.report.stored_results import AttackSummary, CurveSummary
from advrad.utils.files import atomic_path
from advrad.utils.formatting import flat, percent

Array = NDArray[Any]

_SHOWN_PX = 256


@dataclass(frozen=True)
class GalleryItem:
    """One test image in the report.

    Attributes:
        name: Displayed file name, such as ``scratch/004.png``.
        label: 0 for normal, 1 for anomalous.
        defect: Name of the defect; ``good`` for normal images.
        score: Anomaly score.
        image: Image, (h, w, 3), in [0, 1].
        heat: Image with its anomaly map, (h, w, 3), in [0, 1]; see :func:`advrad.inference.heatmaps.heat_overlay`.
        reconstruction: Reconstruction, (h, w, 3), in [0, 1].
        mask: Ground truth, (h', w'), bool; outlined on ``heat``, or on ``image`` without ``heat`` or with ``halves``.
        others: Names of other detectors, and the image with their anomaly maps, (h, w, 3), in [0, 1].
        proof: What is proven of the verdict, such as ``proven up to 3/255``; empty for nothing.
        proven_share: Share of the image that is proven to be defective and outlined on ``heat``; None if the detector
            has no bounds.
        halves: Names of the halves of a guarded detector, and the image with their anomaly maps, (h, w, 3), in [0, 1].
        defective: Verdict of a detector that decides by more than its score; None for score > threshold.
        word: That verdict in words; empty for none.
    """

    name: str
    label: int
    defect: str
    score: float
    image: Array
    heat: Array | None = None
    reconstruction: Array | None = None
    mask: Array | None = None
    others: tuple[tuple[str, Array], ...] = ()
    proof: str = ""
    proven_share: float | None = None
    halves: tuple[tuple[str, Array], ...] = ()
    defective: bool | None = None
    word: str = ""


@dataclass(frozen=True)
class Candidate:
    """One candidate of the score selection.

    Attributes:
        name: Description of the candidate.
        metric: Value that candidates were compared by, larger is better; None if it could not be measured.
    """

    name: str
    metric: float | None


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows. Where a part is missing, the page says so.

    Attributes:
        category: Name of the product.
        labels: Labels, (n,), 0 for normal, 1 for anomalous.
        scores: Scores, (n,), finite, larger is more anomalous.
        defects: Names of the defects, n; ``good`` for normal images.
        warnings: Reasons to doubt the figures.
        threshold: Threshold; an image with a higher score is called defective.
        threshold_source: Sentence on the images that the threshold comes from and on its guarantee.
        advice: What to do where another threshold would be far better; empty for nothing.
        image_auroc: Area under the ROC curve of ``scores``.
        image_auroc_interval: Confidence interval of ``image_auroc``.
        confidence: Coverage of that interval, in (0, 1).
        pixel_auroc: Area under the ROC curve over all pixels; None without masks.
        aupro: Area under the per-region overlap; None without masks.
        fpr_limit: Largest false positive rate of ``aupro``.
        misses: Anomalous images with the lowest scores, lowest first.
        false_alarms: Normal images with the highest scores, highest first.
        finds: Anomalous images with the highest scores, highest first.
        training: Rows of the training log, as :func:`advrad.training.log.read_log` returns them.
        candidates: Candidates of the score selection.
        selected: Name of the selected candidate.
        candidate_metric: Description of ``Candidate.metric``.
        selection_reason: Sentence on the reason for the selection.
        attacks: Results of attacks on the detector.
        curves: Robust AUROC over one parameter of an attack.
        certificates: Results of certifications of the detector.
        proven_radius: Radius of the proven areas that the images show, as text; empty if they show none.
        description: Lines that say how images are scored.
        registered: Images with the parts of the product as the detector finds them; empty if it compares whole images.
        compared: Figures of several detectors of the product, this one first; empty for no comparison.
        halves: Scores and figures of the halves of a guarded detector, which decide; None for another detector.
        configuration: Configuration of the detector, may be nested.
        provenance: Seed, versions, times and data that the result comes from, may be nested.

    Example:
        >>> ReportContent("nut", labels=[0, 1], scores=[0.1, 0.9], defects=("good", "dent")).threshold is None
        True
    """

    category: str
    labels: ArrayLike
    scores: ArrayLike
    defects: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    threshold: float | None = None
    threshold_source: str = ""
    advice: str = ""
    image_auroc: float | None = None
    image_auroc_interval: tuple[float, float] | None = None
    confidence: float = 0.95
    pixel_auroc: float | None = None
    aupro: float | None = None
    fpr_limit: float = 0.3
    misses: tuple[GalleryItem, ...] = ()
    false_alarms: tuple[GalleryItem, ...] = ()
    finds: tuple[GalleryItem, ...] = ()
    training: Sequence[Mapping[str, float]] = ()
    candidates: tuple[Candidate, ...] = ()
    selected: str | None = None
    candidate_metric: str = "AUROC"
    selection_reason: str = ""
    attacks: tuple[AttackSummary, ...] = ()
    curves: tuple[CurveSummary, ...] = ()
    certificates: tuple[CertificationResult, ...] = ()
    proven_radius: str = ""
    description: tuple[str, ...] = ()
    registered: tuple[RegisteredImage, ...] = ()
    compared: tuple[ComparedFigures, ...] = ()
    halves: Halves | None = None
    configuration: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def pick_gallery(
    labels: ArrayLike, scores: ArrayLike, count: int = 4
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Choose the images that a report shows.

    Args:
        labels: Labels, (n,), 0 for normal, 1 for anomalous.
        scores: Scores, (n,), larger is more anomalous.
        count: Largest number of images of each kind.

    Returns:
        ``(misses, false_alarms, finds)``: indices of the anomalous images with the lowest scores, of the normal images
        with the highest scores, and of the anomalous images with the highest scores that are not among the misses.
        Ties keep their order.

    Example:
        >>> pick_gallery([0, 1, 0, 1], [0.3, 0.9, 0.1, 0.2], count=1)
        ((3,), (0,), (1,))
    """
    label, score = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    rising = np.argsort(score, kind="stable")
    falling = np.argsort(-score, kind="stable")
    # Few anomalous images are divided between misses and finds; an odd one is a miss.
    defects = int(label.sum())
    shown = min(count, (defects + 1) // 2)
    misses = tuple(int(i) for i in rising[label[rising]][:shown])
    finds = tuple(int(i) for i in falling[label[falling]][: min(count, defects - shown)])
    alarms = tuple(int(i) for i in falling[~label[falling]][:count])
    return misses, alarms, finds


def write_report(path: Path, content: ReportContent) -> None:
    """Write a report as one HTML file.

    Args:
        path: HTML file to write, in an existing folder. An older file is replaced once the new one is complete.
        content: Content of the report. Names may contain any characters.

    Raises:
        DataError: Labels, scores, defects or an image have a wrong shape or are not finite.
        OutputError: The file cannot be written.

    Example:
        >>> write_report(Path("report.html"), ReportContent("nut", [0], [0.1], ("good",)))
        >>> Path("report.html").stat().st_size > 1000
        True
    """
    text = _render(content)
    with atomic_path(path) as temporary:
        # File names may contain characters that are not valid in UTF-8.
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def _render(content: ReportContent) -> str:
    labels, scores = np.asarray(content.labels), np.asarray(content.scores, dtype=np.float64)
    count = len(content.defects)
    if labels.shape != (count,) or scores.shape != (count,):
        shapes = f"labels {labels.shape}, scores {scores.shape} and {count} defects"
        raise DataError(f"{shapes} do not match; pass one of each per image")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels: a value is neither 0 nor 1; use 0 for normal and 1 for anomalous")
    if not np.isfinite(scores).all():
        raise DataError("scores: a value is NaN or infinite; the model that made it has diverged")
    labels = labels.astype(bool)
    both = bool(labels.any() and not labels.all())
    threshold = content.threshold
    called = None if threshold is None else scores > threshold
    if content.halves is not None:
        called = content.halves.scores.defective
    return page(
        "report.html.j2",
        content=content,
        counts={"all": count, "defective": int(labels.sum()), "good": int((~labels).sum())},
        found=None if called is None else int(called[labels].sum()),
        alarms=None if called is None else int(called[~labels].sum()),
        roc=roc_plot(labels, scores, called) if both else None,
        histogram=histogram_plot(labels, scores, None if content.halves else threshold) if count else None,
        by_defect=_by_defect(labels, scores, content, called),
        halves=None if content.halves is None else halves_section(content.halves, labels),
        galleries=[
            _gallery(
                "Anomalous images with the lowest scores",
                "The defects that are hardest to detect.",
                content.misses,
                threshold,
            ),
            _gallery(
                "Normal images with the highest scores",
                "False alarms, or the images closest to one.",
                content.false_alarms,
                threshold,
            ),
            _gallery(
                "Anomalous images with the highest scores",
                "The defects that are easiest to detect.",
                content.finds,
                threshold,
            ),
        ],
        registered=[
            {"name": item.name, "parts": item.parts, "src": _data_uri(item.image)} for item in content.registered
        ],
        training=_training(content.training),
        candidates=_candidates(content),
        curves=[curve_plot(curve) for curve in content.curves],
        proofs=[_proof(result) for result in content.certificates if is_proof(result)],
        proven_meaning=MEANING,
        smoothed=[(result, certificate_plot(result)) for result in content.certificates if not is_proof(result)],
        configuration=list(flat(content.configuration, ", ")),
        provenance=list(flat(content.provenance, ", ")),
    )


def _proof(result: CertificationResult) -> dict[str, Any]:
    """Make the plot and the tables of a certification with exact bounds."""
    return {
        "result": result,
        "count": result.n_normal + result.n_anomalous,
        "plot": certificate_plot(result),
        "attacked": bool(attacked_points(result)),
        "radii": radius_rows(result),
        "images": image_rows(result),
    }


def _by_defect(
    labels: Array, scores: Array, content: ReportContent, called: NDArray[np.bool_] | None
) -> list[dict[str, Any]]:
    """Make one row per defect, the lowest AUROC first, and a last row for the normal images."""
    names = np.array(content.defects, dtype=object)
    figures = figures_by_defect(labels, scores, content.defects, called)
    rows = [_defect_row(name, scores, labels & (names == name), found.auroc, called) for name, found in figures.items()]
    rows.sort(key=lambda row: row["auroc"] or 0.0)
    if not labels.all():
        rows.append(_defect_row("good", scores, ~labels, None, called))
    return rows


def _defect_row(
    name: str, scores: Array, chosen: NDArray[np.bool_], area: float | None, called: NDArray[np.bool_] | None
) -> dict[str, Any]:
    part = scores[chosen]
    return {
        "name": name,
        "count": part.size,
        "auroc": area,
        "flagged": None if called is None else int(called[chosen].sum()),
        "low": float(part.min()),
        "median": float(np.median(part)),
        "high": float(part.max()),
    }


def _gallery(title: str, note: str, items: tuple[GalleryItem, ...], threshold: float | None) -> dict[str, Any]:
    return {"title": title, "note": note, "shown": [_shown(item, threshold) for item in items]}


def _shown(item: GalleryItem, threshold: float | None) -> dict[str, Any]:
    """Make the panels and the texts of one image."""
    about = f"{item.name} ({item.defect})"
    panels = [("Image", item.image, f"Test image {about}")]
    if item.heat is not None:
        alt = f"Anomaly map over {about}"
        if item.proven_share:
            alt += f", proven defect area outlined, {percent(item.proven_share)} of the image"
        panels.append(("Both halves" if len(item.halves) == 2 else "Anomaly map", item.heat, alt))
    if item.mask is not None and np.asarray(item.mask).any():
        place = 0 if item.halves else -1  # with halves, the map has lines enough
        title, array, alt = panels[place]
        panels[place] = (title, overlay.outline(array, item.mask), f"{alt}, true defect outlined")
    panels += [(f"Half: {name}", array, f"Anomaly map of the half {name} over {about}") for name, array in item.halves]
    panels += [(f"Map: {name}", array, f"Anomaly map of the {name} over {about}") for name, array in item.others]
    if item.reconstruction is not None:
        panels.append(("Reconstruction", item.reconstruction, f"Reconstruction of {about}"))
    verdict = None
    if threshold is not None:
        called = item.score > threshold if item.defective is None else item.defective
        words = ("found", "missed") if item.label else ("false alarm", "passed")
        verdict = {"text": words[0 if called else 1], "right": called == bool(item.label)}
    return {
        "name": item.name,
        "defect": item.defect,
        "score": item.score,
        "verdict": verdict,
        "word": item.word,
        "proof": item.proof,
        "panels": [{"title": title, "src": _data_uri(array), "alt": alt} for title, array, alt in panels],
    }


def _data_uri(array: ArrayLike) -> str:
    """Encode an image as a data URI: a JPEG of at most 256 px, 10 to 40 kB."""
    from PIL import Image

    image = Image.fromarray(to_levels(overlay.colour_image(array)))
    image.thumbnail((_SHOWN_PX, _SHOWN_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _candidates(content: ReportContent) -> list[dict[str, Any]]:
    """List the candidates, best first, with the lengths of their bars."""
    measured = [c.metric for c in content.candidates if c.metric is not None and math.isfinite(c.metric)]
    low, high = (min(measured), max(measured)) if measured else (0.0, 0.0)
    floor = min(low, 0.5) if low >= 0.0 and high <= 1.0 else low  # an AUROC of 0.5 is that of chance
    rows = []
    for candidate in content.candidates:
        value = candidate.metric if candidate.metric is not None and math.isfinite(candidate.metric) else None
        bar = 0.0 if value is None or high == floor else (value - floor) / (high - floor)
        rows.append(
            {"name": candidate.name, "metric": value, "bar": bar, "selected": candidate.name == content.selected}
        )
    rows.sort(key=lambda row: -math.inf if row["metric"] is None else row["metric"], reverse=True)
    return rows


def _training(rows: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    """Plot and summarise the training loss; None if there are fewer than two rows."""
    if len(rows) < 2:
        return None
    steps = np.array([row["step"] for row in rows], dtype=np.float64)
    losses = np.array([row["loss"] for row in rows], dtype=np.float64)
    speeds = [row["images_per_s"] for row in rows if "images_per_s" in row]
    elapsed = [row["elapsed_s"] for row in rows if "elapsed_s" in row]
    return {
        "plot": loss_plot(steps, losses),
        "steps": int(steps.max()),
        "first": float(losses[0]),
        "last": float(losses[-max(1, len(losses) // 20) :].mean()),
        "images_per_s": float(np.median(speeds)) if speeds else None,
        "minutes": max(elapsed) / 60.0 if elapsed else None,
    }
