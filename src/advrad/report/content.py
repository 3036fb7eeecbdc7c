"""The content of a report, gathered from an evaluation and the model folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad.certificates.results import CertificationResult
from advrad.data.images import read_image
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import to_tensor
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.model_card import describe_threshold
from advrad.detectors.score_config import describe
from advrad.inference.evaluation import EvaluationResult
from advrad.inference.heatmaps import draw_heat_map
from advrad.report.evaluation_report import Candidate, GalleryItem, ReportContent, pick_gallery
from advrad.report.stored_results import AttackSummary, CurveSummary, R, read_results
from advrad.training.log import read_log

_SHOWN_CANDIDATES = 20


def report_content(
    evaluation: EvaluationResult,
    detector: AdvRAD,
    run_folder: Path | None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> ReportContent:
    """Gather the content of a report.

    Args:
        evaluation: Evaluation of ``detector``.
        detector: Detector; it scores the images of the gallery again, for their reconstructions.
        run_folder: Model folder with the training log and the results of attacks and certifications; None for none.
        max_pixels: Largest number of pixels of an image file.

    Raises:
        ImageError: An image of the gallery cannot be read any more.
        DataError: The training log or a stored result is damaged.

    Example:
        Not run by the tests, because it needs a trained model.

        >>> import advrad
        >>> detector = advrad.AdvRAD.from_pretrained("run")  # doctest: +SKIP
        >>> evaluation = advrad.evaluate(detector, "images")  # doctest: +SKIP
        >>> write_report(Path("report.html"), report_content(evaluation, detector, Path("run")))  # doctest: +SKIP
    """
    config = detector.detector_config
    misses, alarms, finds = pick_gallery(evaluation.labels, evaluation.scores)
    tried = [Candidate(name, value) for name, value in config.training.tried]
    selected = describe(config.score)
    shown = tried[:_SHOWN_CANDIDATES]
    shown += [candidate for candidate in tried[_SHOWN_CANDIDATES:] if candidate.name == selected]

    def stored(pattern: str, kind: type[R]) -> tuple[R, ...]:
        return read_results(run_folder, pattern, evaluation.category, kind) if run_folder else ()

    def items(indices: Iterable[int]) -> tuple[GalleryItem, ...]:
        return tuple(_item(evaluation, detector, index, max_pixels) for index in indices)

    return ReportContent(
        category=evaluation.category,
        labels=evaluation.labels,
        scores=evaluation.scores,
        defects=evaluation.defects,
        warnings=evaluation.warnings,
        threshold=evaluation.threshold,
        threshold_source=describe_threshold(config),
        image_auroc=evaluation.image_auroc,
        image_auroc_interval=evaluation.image_auroc_ci,
        pixel_auroc=evaluation.pixel_auroc,
        aupro=evaluation.aupro,
        misses=items(misses),
        false_alarms=items(alarms),
        finds=items(finds),
        training=read_log(run_folder / "training") if run_folder else (),
        candidates=tuple(shown),
        selected=selected if any(candidate.name == selected for candidate in shown) else None,
        candidate_metric="AUROC of held-out normal images against synthetic defects",
        selection_reason=config.training.reason,
        attacks=stored("attacks/*/result.json", AttackSummary),
        curves=stored("attacks/curve-*.json", CurveSummary),
        certificates=stored("certificates/*/result.json", CertificationResult),
        configuration=config.model_dump(
            mode="json", include={"denoiser", "size_px", "score", "noise_seed", "precision"}
        ),
        provenance=_provenance(detector),
    )


def _item(evaluation: EvaluationResult, detector: AdvRAD, index: int, max_pixels: int) -> GalleryItem:
    record = evaluation.records[index]
    image = read_image(record.path, max_pixels, at_least_px=detector.size_px)
    # The reconstruction comes from the image as it was scored, so that the panels match.
    _, maps, recon = detector.predict_batch(to_tensor(image)[None])
    calibration = detector.detector_config.calibration
    return GalleryItem(
        name="/".join(record.path.parts[-2:]),
        label=int(evaluation.labels[index]),
        defect=record.defect,
        score=float(evaluation.scores[index]),
        image=image,
        heat=None if calibration is None else draw_heat_map(image, maps[0, 0].numpy(), calibration),
        reconstruction=recon[0].clamp(0, 1).permute(1, 2, 0).numpy(),
        mask=_mask(evaluation, index),
    )


def _mask(evaluation: EvaluationResult, index: int) -> npt.NDArray[np.bool_] | None:
    """The ground-truth mask of an image, if it is known."""
    if evaluation.masks is None or evaluation.mask_known is None or not evaluation.mask_known[index]:
        return None
    mask: npt.NDArray[np.bool_] = evaluation.masks[index]
    return mask


def _provenance(detector: AdvRAD) -> dict[str, Any]:
    config = detector.detector_config
    loop = config.training.loop.model_dump(mode="json", include={"seed", "steps", "batch_size", "learning_rate"})
    recorded = config.training.to_dict()
    shown = {"pictures": "images", "seconds": "seconds", "candidates": "candidates", "versions": "versions"}
    rest: dict[str, Any] = {shown[name]: value for name, value in recorded.items() if name in shown}
    if config.calibration is not None:
        rest["calibration"] = {
            "images": config.calibration.n,
            "false_alarm_rate": config.calibration.false_alarm_rate,
        }
    return {"category": config.training.category, **loop, **rest}
