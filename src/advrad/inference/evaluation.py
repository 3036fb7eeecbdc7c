"""Measure a detector on labelled test images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from advrad.data import shortcuts
from advrad.data.images import read_pixels8
from advrad.data.labelled import LabelledImages, load_labelled
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.config import Calibration, DefectFigures, RecordedFigures, TestedFigures
from advrad.detectors.deciding import SupportsVerdicts
from advrad.detectors.exported_config import halves_of
from advrad.detectors.guarded_figures import GuardedFigures
from advrad.detectors.probing import score_images
from advrad.detectors.saved import SupportsPrediction, framing_of, seen_by, takes_pixels
from advrad.detectors.wrappers import as_detector, takes_colour
from advrad.errors import CheckpointError, ImageError
from advrad.inference.figures import compute_figures
from advrad.inference.half_scores import HalfScores
from advrad.inference.score_warnings import score_warnings
from advrad.inference.threshold_advice import ThresholdAdvice, advise_on_halves, advise_on_threshold
from advrad.utils.files import write_json, write_text
from advrad.utils.output_folders import ALL, check_output_file, claim_folder
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import seed_of

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.data.labelled import DataSource
    from advrad.detectors.engines import Pixels
    from advrad.detectors.verdicts import HalfReport

Floats = npt.NDArray[np.float64]

FIGURES_NAME, SCORES_NAME = "evaluation.json", "scores.jsonl"


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """Figures of a detector on n test images. A figure is None where it cannot be measured.

    Attributes:
        image_auroc: AUROC over images; None without images of both classes.
        image_auroc_ci: 95 % bootstrap interval of ``image_auroc``.
        pixel_auroc: AUROC over pixels; None without anomaly maps or masks.
        aupro: Area under the per-region overlap curve, for false-positive rates up to 30 %; None as ``pixel_auroc``.
        tpr: Share of anomalous images that are called defective; None without a threshold.
        fpr: Share of normal images that are called defective; None without a threshold.
        threshold: Threshold of the score; None if the detector has none.
        n_normal: Number of normal images.
        n_anomalous: Number of anomalous images.
        per_defect: Figures by name of the defect.
        shortcuts: AUROC with which brightness, contrast or sharpness alone separates normal from anomalous images.
        warnings: Texts to show wherever the figures are shown.
        category: Name of the product.
        names: Names of the images, n.
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        scores: Anomaly scores, (n,); larger is more anomalous.
        defects: Defect names, n; ``good`` for normal images.
        maps: Anomaly maps, (n, h, w); None if the detector gives none of the images' size.
        masks: Ground-truth masks, (n, h, w); all False where the mask is not known.
        mask_known: Whether the mask of each image is known, (n,).
        records: Files of the images, n; empty if the images were tensors.
        skipped: Errors of the files that were left out.
        notes: Messages for the user.
        advice: What to do where another threshold would be far better; None for nothing. Its text is among ``notes``.
        guarded: Figures of the halves of a guarded detector; None for another detector.
        half_scores: Scores of the halves of a guarded detector, which decide; None where score > threshold decides.

    Example:
        >>> import advrad, torch
        >>> images = torch.rand(6, 3, 16, 16) * 0.5
        >>> images[3:, :, 4:8, 4:8] = 1.0  # a bright spot
        >>> result = advrad.evaluate(lambda images: images.amax(1, keepdim=True), (images, [0, 0, 0, 1, 1, 1]))
        >>> result.image_auroc
        1.0
        >>> result.to_dict()["n_defect"]
        3
    """

    image_auroc: float | None
    image_auroc_ci: tuple[float, float] | None
    pixel_auroc: float | None
    aupro: float | None
    tpr: float | None
    fpr: float | None
    threshold: float | None
    n_normal: int
    n_anomalous: int
    per_defect: Mapping[str, DefectFigures]
    shortcuts: Mapping[str, float]
    warnings: tuple[str, ...]
    category: str
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    defects: tuple[str, ...]
    maps: npt.NDArray[np.float32] | None = None
    masks: npt.NDArray[np.bool_] | None = None
    mask_known: npt.NDArray[np.bool_] | None = None
    records: tuple[Record, ...] = ()
    skipped: tuple[ImageError, ...] = ()
    notes: tuple[str, ...] = ()
    advice: ThresholdAdvice | None = None
    guarded: GuardedFigures | None = None
    half_scores: HalfScores | None = None

    @property
    def defective(self) -> npt.NDArray[np.bool_] | None:
        """Which images are called defective, (n,); None without a threshold."""
        if self.half_scores is not None:
            return self.half_scores.defective
        return None if self.threshold is None else self.scores > self.threshold

    @property
    def figures(self) -> RecordedFigures:
        """The figures alone, as a model folder stores them."""
        values = {name: getattr(self, name) for name in TestedFigures.model_fields}
        if self.guarded is None:
            del values["guarded"]
        return RecordedFigures(**values)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values, with the notes if there are any."""
        return self.figures.to_dict() | ({"notes": list(self.notes)} if self.notes else {})

    def save(self, folder: str | Path) -> None:
        """Write ``evaluation.json`` with the figures and ``scores.jsonl`` with the score of each image.

        Args:
            folder: Folder for the files; made if missing.

        Raises:
            OutputError: A file cannot be written.
        """
        place = claim_folder(Path(folder), "results", also=ALL)
        write_json(place / FIGURES_NAME, self.to_dict())
        write_scores(place / SCORES_NAME, self)

    def __repr__(self) -> str:
        def shown(value: float | None) -> str:
            return "None" if value is None else f"{value:.4g}"

        low, high = self.image_auroc_ci or (None, None)
        parts = [
            f"category={self.category!r}",
            f"image_auroc={shown(self.image_auroc)}",
            f"image_auroc_ci=({shown(low)}, {shown(high)})" if self.image_auroc_ci else "image_auroc_ci=None",
            *(f"{name}={shown(getattr(self, name))}" for name in ("pixel_auroc", "aupro", "tpr", "fpr", "threshold")),
            f"n_normal={self.n_normal}",
            f"n_anomalous={self.n_anomalous}",
        ]
        return f"EvaluationResult({', '.join(parts)})"


def evaluate(
    detector: SupportsPrediction | AnomalyDetector | Callable[..., Any],
    data: DataSource,
    *,
    options: DataOptions = DataOptions(),
    seed: int = 0,
    progress: ProgressReporter = SILENT,
    batch_size: int = 8,
) -> EvaluationResult:
    """Measure a detector on test images.

    Args:
        detector: Detector of a model folder, or anything that :func:`advrad.wrap` takes.
        data: Test images: a folder (its test split), ``FILE.py:NAME`` for a datamodule in a Python file, a datamodule,
            or a pair of images in memory and labels, (n,) of 0 (normal) and 1 (anomalous). The images have one size,
            which they keep: (n, 3, h, w) or (n, h, w, 3), float in [0, 1], uint8 or uint16; or a list of such images or
            of images of Pillow.
        options: How image files are found and read.
        seed: Seed of the bootstrap intervals, and of the noise of a detector that does not name its own noise seed.
        progress: Receives the number of scored images.
        batch_size: Images per batch; does not change the figures.

    Returns:
        The figures, and the score of each image.

    Raises:
        DataError: There are no test images, or the tensors have a wrong shape, type or range.
        ImageError: An image or a mask cannot be read, unless ``options.skip_bad``.
        CheckpointError: A detector of a model folder gives a score that is not finite.
        DetectorError: Another detector gives something that is not a score.

    Example:
        >>> import advrad, torch
        >>> images, labels = torch.rand(8, 3, 16, 16), [0, 1] * 4
        >>> result = advrad.evaluate(lambda images: images.mean((1, 2, 3)), (images, labels))
        >>> (result.n_normal, result.n_anomalous, result.pixel_auroc)
        (4, 4, None)
    """
    target = detector if isinstance(detector, SupportsPrediction) else as_detector(detector)
    images = _load(target, data, options)
    scores, maps, statistics, halves = _score(target, images, options, seed, batch_size, progress)
    known, masks = images.mask_known, images.masks
    if images.windows:
        maps = None if maps is None else _filling(maps, images.windows)
        masks = None if masks is None else _filling(masks.astype(np.float32), images.windows, "nearest-exact") > 0
    pixels = None if maps is None or masks is None or known is None else (masks[known], maps[known])
    defective = None if halves is None else halves.defective
    figures = compute_figures(
        images.labels, scores, images.defects, target.threshold, defective=defective, pixels=pixels, seed=seed
    )
    advice = _advice(target, images.labels, scores, halves)
    separations: tuple[shortcuts.Separation, ...] = ()
    if statistics:
        separations = shortcuts.separations(images.labels, shortcuts.join_statistics(statistics), seed=seed)
    return EvaluationResult(
        **dict(figures)
        | {
            "shortcuts": shortcuts.aurocs(separations),
            "warnings": (
                *images.warnings,
                *score_warnings(target, images, scores, seed),
                *shortcuts.warn_of_shortcuts(separations),
            ),
            "guarded": None if halves is None else halves.figures(images.labels),
        },
        category=images.category,
        names=images.names,
        labels=images.labels,
        scores=scores,
        defects=images.defects,
        maps=maps,
        masks=masks,
        mask_known=known,
        records=images.records,
        skipped=images.skipped,
        notes=(*images.notes, *_notes(images), *([] if advice is None else [advice.text])),
        advice=advice,
        half_scores=halves,
    )


def _load(detector: SupportsPrediction | AnomalyDetector, data: DataSource, options: DataOptions) -> LabelledImages:
    """The test images, framed as the detector wants them."""
    images = load_labelled(
        data,
        framing_of(detector) or 256,
        options,
        both_classes=False,
        colour=takes_colour(detector),
        seen=seen_by(detector),
        compare_training=isinstance(detector, SupportsPrediction),
    )
    if not isinstance(detector, SupportsPrediction):
        images.check_size(detector.size_px)
    return images


def _score(
    detector: SupportsPrediction | AnomalyDetector,
    images: LabelledImages,
    options: DataOptions,
    seed: int,
    batch_size: int,
    progress: ProgressReporter,
) -> tuple[Floats, npt.NDArray[np.float32] | None, list[shortcuts.Statistics], HalfScores | None]:
    """Scores (n,), maps (n, h, w) if there are any of the images' size, brightness statistics, and scores of halves."""
    count = len(images)
    scores = np.empty(count, dtype=np.float64)
    maps: npt.NDArray[np.float32] | None = np.empty((count, *images.size), dtype=np.float32)
    statistics: list[shortcuts.Statistics] = []
    halves: list[Sequence[HalfReport]] = []
    for start in range(0, count, batch_size):
        part = slice(start, min(start + batch_size, count))
        batch = images.batch(part)
        if batch.shape[1] == 3 and min(images.size) >= 3:
            statistics.append(shortcuts.image_statistics(batch.numpy()))
        given = _pixels(detector, images.records[part], options) or batch
        scores[part], found = _score_batch(detector, given, seed, images.names[part], halves)
        if maps is not None and found is not None and found.shape[1:] == images.size:
            maps[part] = found
        else:
            maps = None
        progress.update(part.stop, count)
    return scores, maps, statistics, _halves(detector, halves)


def _pixels(detector: object, records: Sequence[Record], options: DataOptions) -> list[Pixels]:
    """Images in 8 bits at their own size, for a detector that takes them; empty for another, and without files."""
    if not takes_pixels(detector):
        return []
    framing = framing_of(detector) if isinstance(detector, SupportsPrediction) else None
    return [read_pixels8(one.path, framing, options.max_pixels, options.value_range) for one in records]


def _halves(detector: object, reports: list[Sequence[HalfReport]]) -> HalfScores | None:
    """The scores of the halves of a detector, if it has halves."""
    config = halves_of(getattr(detector, "config", None))
    return HalfScores.of(config, reports) if reports and config is not None else None


def _filling(
    values: npt.NDArray[np.float32], windows: Sequence[tuple[slice, slice]], mode: str = "bilinear"
) -> npt.NDArray[np.float32]:
    """Maps, (n, h, w), whose parts that show the images fill them: pixels of the padding do not count."""
    import torch
    from torch.nn.functional import interpolate

    parts = [torch.from_numpy(one[window])[None, None] for one, window in zip(values, windows, strict=True)]
    filled = [interpolate(part, size=values.shape[1:], mode=mode)[0, 0].numpy() for part in parts]
    return np.stack(filled)


def _score_batch(
    detector: SupportsPrediction | AnomalyDetector,
    batch: Tensor | list[Pixels],
    seed: int,
    names: Sequence[str],
    halves: list[Sequence[HalfReport]],
) -> tuple[Floats, npt.NDArray[np.float32] | None]:
    """Scores (b,), and maps (b, h, w) or None. What halves say of each image is added to ``halves``."""
    given = cast("Tensor", batch)  # pixels, for a detector that takes them
    if not isinstance(detector, SupportsPrediction):
        noise_seed = detector.noise_seed
        return score_images(detector, given, seed_of(seed, "score") if noise_seed is None else noise_seed, names)
    found: npt.NDArray[np.float32] | None
    if isinstance(detector, SupportsVerdicts):
        verdicts = detector.verdicts(given)
        halves += [verdict.halves for verdict in verdicts]
        values = np.array([verdict.score for verdict in verdicts])
        found = np.stack([verdict.anomaly_map.numpy() for verdict in verdicts])
    else:
        output = detector.predict_batch(given)
        values = output.scores.double().numpy()
        found = None if output.anomaly_maps is None else output.anomaly_maps[:, 0].numpy()
    if not (np.isfinite(values).all() and (found is None or np.isfinite(found).all())):
        raise CheckpointError("a score is not a finite number; the model is damaged or diverged: train it again")
    return values, found


def _advice(
    detector: object, labels: npt.NDArray[np.int64], scores: Floats, halves: HalfScores | None
) -> ThresholdAdvice | None:
    """What to do about the threshold of a detector that was calibrated by advrad."""
    if halves is not None:
        return advise_on_halves(labels, halves)
    calibration = getattr(getattr(detector, "config", None), "calibration", None)
    return advise_on_threshold(labels, scores, calibration) if isinstance(calibration, Calibration) else None


def _notes(images: LabelledImages) -> list[str]:
    """What the user should know of figures that are missing."""
    notes = []
    if not images.labels.any() or images.labels.all():
        missing = "normal" if images.labels.all() else "anomalous"
        notes.append(f"there is no {missing} test image, so the figures that need both classes are not measured")
    unknown = 0 if images.mask_known is None else int((~images.mask_known).sum())
    if unknown:
        notes.append(f"anomalous images without a usable mask, left out of the pixel figures: {unknown}")
    return notes


def write_scores(path: Path, result: EvaluationResult) -> None:
    """Write one JSON line per image: ``path, label, defect, score``, and for a guarded detector ``halves``.

    Args:
        path: Path of the file.
        result: The evaluation.

    Raises:
        OutputError: The file cannot be written.
    """
    places = [str(record.path) for record in result.records] or result.names
    halves = _half_rows(result)
    rows = zip(places, result.labels.tolist(), result.defects, result.scores.tolist(), halves, strict=True)
    lines = [
        json.dumps({"path": place, "label": label, "defect": defect, "score": score} | half)
        for place, label, defect, score, half in rows
    ]
    check_output_file(path)
    write_text(path, "\n".join(lines) + "\n")


def _half_rows(result: EvaluationResult) -> list[dict[str, Any]]:
    """The scores of the halves of each image by name, null where a half failed; empty for a detector without halves."""
    halves = result.half_scores
    if halves is None:
        return [{} for _ in result.names]
    rows = ([score if math.isfinite(score) else None for score in row] for row in halves.scores.tolist())
    return [{"halves": dict(zip(halves.names, row, strict=True))} for row in rows]
