"""One evaluation as one HTML file that needs nothing else: no script, no font, no image from elsewhere."""

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

from advrad import metrics
from advrad.data.png import to_levels
from advrad.errors import DataError
from advrad.inference import heatmaps as overlay
from advrad.report.plots import certificate_plot, curve_plot, histogram_plot, loss_plot, roc_plot
from advrad.report.rendering import page
from advrad.utils.files import atomic_path
from advrad.utils.formatting import flat

Array = NDArray[Any]

_SHOWN_PX = 256


@dataclass(frozen=True)
class GalleryItem:
    """One test image to be shown.

    Attributes:
        name: file name as it is to be read, such as ``scratch/004.png``.
        label: 0 for good, 1 for defective.
        defect: ``good`` or the defect's name.
        score: of the detector.
        image: (h, w, 3) in [0, 1].
        heat: the image with its score map on it, same shape; see :func:`advrad.inference.heatmaps.heat_overlay`.
        reconstruction: (h, w, 3) in [0, 1].
        mask: (h', w') bool, ground truth; outlined on ``heat``, or on ``image`` where there is no ``heat``.
    """

    name: str
    label: int
    defect: str
    score: float
    image: Array
    heat: Array | None = None
    reconstruction: Array | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class Choice:
    """One candidate that was tried before the detector was settled.

    Attributes:
        name: what was tried.
        metric: its figure of merit, larger is better; None where it could not be measured.
    """

    name: str
    metric: float | None


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows; what is left out is missing from the page, with a sentence that says so.

    Attributes:
        category: name of the product.
        labels: (n,) 0 or 1, one per test image.
        scores: (n,) finite, larger is more anomalous.
        defects: n names, ``good`` for normal images.
        warnings: what to know before the figures are believed.
        threshold: a score above it is called defective.
        threshold_source: one sentence: which images set it and with what promise.
        image_auroc: area under the ROC curve of ``scores``.
        image_auroc_interval: its interval.
        confidence: coverage of that interval.
        pixel_auroc: over all pixels; None without masks.
        aupro: area under the per-region overlap; None without masks.
        fpr_limit: limit of ``aupro``.
        misses: defects with the lowest scores, lowest first.
        false_alarms: normal images with the highest scores, highest first.
        finds: defects with the highest scores, highest first.
        training: as of :func:`advrad.training.log.read_log`: finite ``step``, ``loss`` and, if known,
            ``images_per_s`` and ``elapsed_s``.
        choices: candidates that were compared on normal images and synthetic defects.
        winner: name of the one taken.
        choice_metric: what ``Choice.metric`` measures.
        choice_reason: one sentence: why the winner won.
        attacks: results of :func:`advrad.attacks.pipeline.attack`, each with its ``flags``.
        curves: results of :func:`advrad.attacks.pipeline.curve`.
        certificates: results of :func:`advrad.certificates.pipeline.certify`.
        configuration: options of the detector, may be nested.
        provenance: seed, versions, times, data: what is needed to make the result again.
    """

    category: str
    labels: ArrayLike
    scores: ArrayLike
    defects: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    threshold: float | None = None
    threshold_source: str = ""
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
    choices: tuple[Choice, ...] = ()
    winner: str | None = None
    choice_metric: str = "AUROC"
    choice_reason: str = ""
    attacks: Sequence[Mapping[str, Any]] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    certificates: Sequence[Mapping[str, Any]] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def pick_gallery(
    labels: ArrayLike, scores: ArrayLike, count: int = 4
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Choose the images worth showing, so that only these have to be kept.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) larger is more anomalous.
        count: how many of each kind, at most.

    Returns:
        ``(misses, false_alarms, finds)``: positions of the defects with the lowest scores, of the normal
        images with the highest, and of the defects with the highest that are not among the misses already.
        Ties keep their order.
    """
    label, score = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    rising = np.argsort(score, kind="stable")
    falling = np.argsort(-score, kind="stable")
    # With few defects they are shared out, and the misses come first: they teach more.
    defects = int(label.sum())
    shown = min(count, (defects + 1) // 2)
    misses = tuple(int(i) for i in rising[label[rising]][:shown])
    finds = tuple(int(i) for i in falling[label[falling]][: min(count, defects - shown)])
    alarms = tuple(int(i) for i in falling[~label[falling]][:count])
    return misses, alarms, finds


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report; an older file is replaced only once the new one is complete.

    Args:
        path: of the HTML file; its folder exists.
        content: what to show. Names may hold any characters: they are escaped.

    Raises:
        DataError: labels, scores, defects or an image have a wrong shape or are not finite.
        OutputError: the file cannot be written.
    """
    text = _render(content)
    with atomic_path(path) as temporary:
        # A file name that is not valid text (a lone surrogate) must not cost the report.
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def _render(content: ReportContent) -> str:
    labels, scores = np.asarray(content.labels), np.asarray(content.scores, dtype=np.float64)
    count = len(content.defects)
    if labels.shape != (count,) or scores.shape != (count,):
        shapes = f"labels {labels.shape}, scores {scores.shape} and {count} defects"
        raise DataError(f"{shapes} do not match; pass one of each per image")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels: a value is neither 0 nor 1; use 0 for good and 1 for defective")
    if not np.isfinite(scores).all():
        raise DataError("scores: a value is NaN or infinite; the model that made it has diverged")
    labels = labels.astype(bool)
    both = bool(labels.any() and not labels.all())
    threshold = content.threshold
    return page(
        "report.html.j2",
        content=content,
        counts={"all": count, "defective": int(labels.sum()), "good": int((~labels).sum())},
        found=None if threshold is None else int((scores[labels] > threshold).sum()),
        alarms=None if threshold is None else int((scores[~labels] > threshold).sum()),
        roc=roc_plot(labels, scores, threshold) if both else None,
        histogram=histogram_plot(labels, scores, threshold) if count else None,
        by_defect=_by_defect(labels, scores, content),
        galleries=[
            _gallery(
                "Defects with the lowest scores",
                "The defects that the detector finds hardest to see.",
                content.misses,
                threshold,
            ),
            _gallery(
                "Normal images with the highest scores",
                "What comes closest to a false alarm, or is one.",
                content.false_alarms,
                threshold,
            ),
            _gallery("Defects with the highest scores", "The clearest finds.", content.finds, threshold),
        ],
        training=_training(content.training),
        choices=_choices(content),
        curves=[curve_plot(curve) for curve in content.curves],
        proofs=[certificate_plot(result) for result in content.certificates],
        configuration=list(flat(content.configuration, ", ")),
        provenance=list(flat(content.provenance, ", ")),
    )


def _by_defect(labels: Array, scores: Array, content: ReportContent) -> list[dict[str, Any]]:
    """One row per kind of defect, the hardest first; normal images last."""
    names = np.array(content.defects, dtype=object)
    good = scores[~labels]
    rows = []
    for name in sorted(set(names[labels])):
        part = scores[labels & (names == name)]
        area = None
        if good.size:
            truth = np.repeat([0, 1], [good.size, part.size])
            area = metrics.auroc(truth, np.concatenate([good, part]))
        rows.append(_defect_row(name, part, area, content.threshold))
    if good.size:
        rows.sort(key=lambda row: row["auroc"])
    if good.size:
        rows.append(_defect_row("good", good, None, content.threshold))
    return rows


def _defect_row(name: str, scores: Array, area: float | None, threshold: float | None) -> dict[str, Any]:
    flagged = None if threshold is None else int((scores > threshold).sum())
    return {
        "name": name,
        "count": scores.size,
        "auroc": area,
        "flagged": flagged,
        "low": float(scores.min()),
        "median": float(np.median(scores)),
        "high": float(scores.max()),
    }


def _gallery(title: str, note: str, items: tuple[GalleryItem, ...], threshold: float | None) -> dict[str, Any]:
    return {"title": title, "note": note, "shown": [_shown(item, threshold) for item in items]}


def _shown(item: GalleryItem, threshold: float | None) -> dict[str, Any]:
    """The panels of one image and what is said of it."""
    about = f"{item.name} ({item.defect})"
    panels = [("Image", item.image, f"Test image {about}")]
    if item.heat is not None:
        panels.append(("Score map", item.heat, f"Score map over {about}"))
    if item.mask is not None and np.asarray(item.mask).any():
        title, array, alt = panels.pop()
        panels.append((title, overlay.outline(array, item.mask), f"{alt}, true defect outlined"))
    if item.reconstruction is not None:
        panels.append(("Reconstruction", item.reconstruction, f"Reconstruction of {about}"))
    verdict = None
    if threshold is not None:
        called = item.score > threshold
        words = ("found", "missed") if item.label else ("false alarm", "passed")
        verdict = {"text": words[0 if called else 1], "right": called == bool(item.label)}
    return {
        "name": item.name,
        "defect": item.defect,
        "score": item.score,
        "verdict": verdict,
        "panels": [{"title": title, "src": _data_uri(array), "alt": alt} for title, array, alt in panels],
    }


def _data_uri(array: ArrayLike) -> str:
    """An image of at most 256 px as a JPEG inside a URI: some 10 to 40 kB."""
    from PIL import Image

    image = Image.fromarray(to_levels(overlay.colour_image(array)))
    image.thumbnail((_SHOWN_PX, _SHOWN_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _choices(content: ReportContent) -> list[dict[str, Any]]:
    """Candidates, best first, with the length of their bars."""
    measured = [c.metric for c in content.choices if c.metric is not None and math.isfinite(c.metric)]
    low, high = (min(measured), max(measured)) if measured else (0.0, 0.0)
    floor = min(low, 0.5) if low >= 0.0 and high <= 1.0 else low  # an AUROC of one half is no merit
    rows = []
    for choice in content.choices:
        value = choice.metric if choice.metric is not None and math.isfinite(choice.metric) else None
        bar = 0.0 if value is None or high == floor else (value - floor) / (high - floor)
        rows.append({"name": choice.name, "metric": value, "bar": bar, "won": choice.name == content.winner})
    rows.sort(key=lambda row: -math.inf if row["metric"] is None else row["metric"], reverse=True)
    return rows


def _training(rows: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    """The loss curve and its summary, or None where there are fewer than two rows."""
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
