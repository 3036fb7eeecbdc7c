"""Measuring a detector on the test images of a data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad import metrics
from advrad.data import shortcuts
from advrad.data.layouts import Dataset
from advrad.data.loading import load_images, load_masks
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.detectors.advrad import AdvRAD
from advrad.errors import CheckpointError, DataError, ImageError
from advrad.utils.files import write_text
from advrad.utils.progress import SILENT, ProgressReporter


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A detector measured on n test images.

    Attributes:
        labels: (n,) 0 or 1.
        scores: (n,) larger is more anomalous.
        defects: n names, ``good`` for normal images.
        records: the n images.
        maps: (n, s, s) score maps.
        masks: (n, s, s) ground truth; all False where it is not known.
        known: (n,) whether the ground truth of an image is known.
        figures: plain JSON values: ``image_auroc``, ``image_auroc_ci``, ``pixel_auroc``, ``aupro``, ``tpr``,
            ``fpr``, ``threshold``, ``n_good``, ``n_defect`` and, by defect, ``per_defect`` (``n``, ``auroc``
            against all normal images, ``tpr``), ``shortcuts`` (the AUROC with which brightness, contrast or
            sharpness alone tells good from anomalous images; see :mod:`advrad.data.shortcuts`) and ``warnings``
            (texts to be shown wherever the figures are). None, or empty, where it cannot be measured: without
            good or without anomalous images, without masks, without a threshold.
        category: name of the product.
        skipped: images that were left out.
        notes: what is worth telling.
    """

    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    defects: tuple[str, ...]
    records: tuple[Record, ...]
    maps: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    figures: dict[str, Any]
    category: str
    skipped: tuple[ImageError, ...] = ()
    notes: tuple[str, ...] = ()


def evaluate(
    detector: AdvRAD,
    dataset: Dataset,
    *,
    options: DataOptions = DataOptions(),
    seed: int = 0,
    progress: ProgressReporter = SILENT,
    batch_size: int = 8,
) -> EvaluationResult:
    """Measure a detector on the test split; no other image is looked at.

    Args:
        detector: with or without a threshold.
        dataset: as of :func:`advrad.data.layouts.find_records`.
        options: Bound on each image, and whether images and masks that cannot be read are left out.
        seed: of the interval's resampling.
        progress: Receives the progress.
        batch_size: images at a time; does not change the figures.

    Raises:
        DataError: there is no test image.
        ImageError: an image or a mask cannot be read, unless ``skip_bad``.
    """
    wanted = [record for record in dataset.records if record.split == "test"]
    if not wanted:
        raise DataError(
            f"{dataset.root}: has no test images; put some beside the good ones, as test/good and"
            " test/<defect>, or as good/ and <defect>/"
        )
    size_px = detector.size_px
    # Masks first: they are quick to read, and a wrong one should not cost the scoring.
    stack = load_images(wanted, size_px, options)
    records = stack.records
    masks, known = load_masks(records, size_px, options)
    maps = np.empty((len(records), size_px, size_px), dtype=np.float32)
    scores = np.empty(len(records), dtype=np.float64)
    statistics = []
    for start in range(0, len(records), batch_size):
        part = slice(start, min(start + batch_size, len(records)))
        images = stack.batch(part)
        statistics.append(shortcuts.describe(images.numpy()))
        batch_scores, batch_maps, _ = detector.predict_batch(images)
        scores[part], maps[part] = batch_scores.numpy(), batch_maps[:, 0].numpy()
        progress.update(part.stop, len(records))
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise CheckpointError("a score is not a finite number; the model is damaged or diverged: train it again")
    labels = np.array([record.label for record in records], dtype=np.int64)
    defects = tuple(record.defect for record in records)
    calibration = detector.detector_config.calibration
    threshold = None if calibration is None else calibration.threshold
    told_apart = shortcuts.separations(labels, shortcuts.gather(statistics), seed=seed)
    figures = measure(labels, scores, defects, masks, maps, known, threshold, seed) | {
        "shortcuts": shortcuts.areas(told_apart),
        "warnings": shortcuts.warn_of_shortcuts(told_apart),
    }
    notes = list(stack.notes)
    if not labels.any() or labels.all():
        kind = "good" if labels.all() else "defective"
        notes.append(f"there is no {kind} test image, so the figures that need both kinds are not measured")
    unknown = int((~known).sum())
    if unknown:
        notes.append(f"anomalous images without a usable mask, left out of the pixel figures: {unknown}")
    return EvaluationResult(
        labels,
        scores,
        defects,
        records,
        maps,
        masks,
        known,
        figures,
        dataset.category,
        stack.skipped,
        tuple(notes),
    )


def measure(
    labels: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
    defects: tuple[str, ...],
    masks: npt.NDArray[np.bool_],
    maps: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    threshold: float | None,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures that follow from the scores; see :class:`EvaluationResult`.

    Args:
        labels: (n,) 0 or 1, n >= 1.
        scores: (n,) finite.
        defects: n names.
        masks: (n, h, w).
        maps: (n, h, w) finite.
        known: (n,) whether ``masks`` holds for an image.
        threshold: None without calibration.
        seed: of the interval's resampling.
    """
    bad = labels.astype(bool)
    both = bool(bad.any() and not bad.all())
    seen = masks[known]
    pixels = bool(seen.any() and not seen.all())
    good = scores[~bad]

    per_defect = {}
    names = np.array(defects, dtype=object)
    for name in sorted(set(names[bad])):
        part = scores[bad & (names == name)]
        truth = np.repeat([0, 1], [good.size, part.size])
        area = metrics.auroc(truth, np.concatenate([good, part])) if good.size else None
        per_defect[str(name)] = {"n": int(part.size), "auroc": area, "tpr": metrics.share_above(part, threshold)}
    return {
        "image_auroc": metrics.auroc(labels, scores) if both else None,
        "image_auroc_ci": list(metrics.auroc_interval(labels, scores, seed=seed)) if both else None,
        "pixel_auroc": metrics.pixel_auroc(seen, maps[known]) if pixels else None,
        "aupro": metrics.aupro(seen, maps[known]) if pixels else None,
        "tpr": metrics.share_above(scores[bad], threshold),
        "fpr": metrics.share_above(good, threshold),
        "threshold": threshold,
        "n_good": int(good.size),
        "n_defect": int(bad.sum()),
        "per_defect": per_defect,
    }


def write_scores(path: Path, evaluation: EvaluationResult) -> None:
    """Write one JSON line per image: ``path, label, defect, score``.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = zip(evaluation.records, evaluation.scores.tolist(), strict=True)
    lines = [
        json.dumps({"path": str(record.path), "label": record.label, "defect": record.defect, "score": score})
        for record, score in rows
    ]
    write_text(path, "\n".join(lines) + "\n")
