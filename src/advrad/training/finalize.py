"""From a trained denoiser to a detector: choose the score, then set the thresholds.

Training ends with both steps, and ``advrad calibrate`` repeats them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advrad.certificates.options import CONFIDENCE, N_SAMPLES
from advrad.certificates.threshold import calibrate_robust_threshold, least_rate
from advrad.certificates.two_path import TwoPath
from advrad.denoisers.base import Denoiser
from advrad.denoisers.memory import MemoryDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig, ImageCounts, PlanRecord, TrainingRecord
from advrad.detectors.score_config import paper_score
from advrad.training.calibration_data import CalibrationData
from advrad.training.memory_filling import held_back
from advrad.training.plan import RunPlan
from advrad.training.score_selection import REFERENCES, Selection, fixed_score, select_score
from advrad.utils.environment import versions
from advrad.utils.precision import Precision, takes_bfloat16
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.threads import thread_count

#: Largest number of candidate scores that a model folder records.
_RECORDED_CANDIDATES = 50


def choose_score(
    plan: RunPlan,
    denoiser: Denoiser,
    images: CalibrationData,
    device: torch.device,
    trained_s: float,
    progress: ProgressReporter = SILENT,
) -> AdvRAD:
    """Choose how a trained denoiser scores images, as the plan asks.

    Args:
        plan: Plan of the run.
        denoiser: Trained denoiser, in evaluation mode.
        images: Normal images.
        device: Device to compute on.
        trained_s: Duration of the training, seconds, for the record.
        progress: Receives the progress.

    Returns:
        A detector without thresholds.
    """
    selection = _select(plan, denoiser, images, device, progress)
    made = How(
        images.counts,
        plan.train.size_px,
        plan.train.seed,
        plan.train.precision,
        trained_s,
        PlanRecord.model_validate(plan.model_dump(mode="json", exclude={"names", "data"})),
    )
    detector = detector_of(denoiser, selection, made).to(device)
    detector.update_config(pad=plan.pad)
    return detector


@dataclass(frozen=True)
class How:
    """How a detector was made.

    Attributes:
        images: Number of normal images by purpose.
        size_px: Side of the square to which the detector resizes images, pixels.
        seed: Seed of the run, and of the detector's noise.
        precision: Arithmetic of the detector.
        seconds: Duration of the training.
        plan: Plan of the run; None if there was none.
    """

    images: ImageCounts
    size_px: int
    seed: int
    precision: Precision
    seconds: float
    plan: PlanRecord | None = None


def detector_of(denoiser: Denoiser, selection: Selection, made: How) -> AdvRAD:
    """Put a denoiser and its chosen score together.

    Args:
        denoiser: Denoiser.
        selection: Chosen score, with the statistics of its error maps.
        made: How the detector was made, for the record.

    Returns:
        A detector without thresholds.
    """
    training = TrainingRecord(
        **({} if made.plan is None else {"plan": made.plan}),
        seconds=round(made.seconds, 1),
        images=made.images,
        tried=selection.tried[:_RECORDED_CANDIDATES],
        candidates=len(selection.tried),
        winner=selection.winner,
        reason=selection.reason,
        attacked=selection.attacked,
        versions=versions(),
        threads=thread_count(),
    )
    config = DetectorConfig(
        denoiser=denoiser.config,
        size_px=made.size_px,
        score=selection.config,
        noise_seed=made.seed,
        precision=made.precision,
        training=training,
    )
    return AdvRAD(denoiser, config, selection.statistics)


def _select(
    plan: RunPlan, denoiser: Denoiser, images: CalibrationData, device: torch.device, progress: ProgressReporter
) -> Selection:
    """Choose the score with the arithmetic that the detector will use."""
    config = plan.train
    bf16 = takes_bfloat16(config.precision, device)

    def arithmetic() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    normals = images.selection.batch(slice(None))
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(images.train), generator=generator)[:REFERENCES].tolist()
    if isinstance(denoiser, MemoryDenoiser):
        rows = held_back(len(images.train), config.seed)
    references = images.train.batch(rows)
    if plan.score == "paper":
        return fixed_score(denoiser, references, normals, paper_score(config.size_px), generator, arithmetic)
    return select_score(
        denoiser,
        references,
        normals,
        sorted({view.image_px for view in config.views}),
        generator,
        objective=plan.objective,
        arithmetic=arithmetic,
        progress=progress,
    )


def set_thresholds(
    detector: AdvRAD,
    images: CalibrationData,
    *,
    false_alarm_rate: float,
    radius: float | None,
    source: dict[str, Any],
    n_samples: int = N_SAMPLES,
    confidence: float = CONFIDENCE,
    strict: bool = True,
    progress: ProgressReporter = SILENT,
) -> None:
    """Set a detector's threshold and, for a radius, also the threshold that holds under attack.

    Args:
        detector: Detector to calibrate.
        images: Normal images; only the calibration images are used.
        false_alarm_rate: Largest share of normal images that may be called anomalous.
        radius: Radius of the perturbations, l2, for pixel values in [0, 1] and images of the detector's size; None for
            no threshold under attack.
        source: Origin of the images, stored with the thresholds.
        n_samples: Number of noise samples that bound each image's score.
        confidence: Confidence of each bound.
        strict: Whether a rate that so few images cannot guarantee under attack is refused. Otherwise the lowest rate
            that they can guarantee is used.
        progress: Receives the progress of the threshold under attack.

    Raises:
        ConfigError: There are too few images for the rate, or the radius needs more samples.
    """
    detector.calibrate(images.calibration_batches(), false_alarm_rate, source)
    if radius is None:
        return
    rate = false_alarm_rate if strict else max(false_alarm_rate, least_rate(len(images.calibration), confidence))
    robust = calibrate_robust_threshold(
        TwoPath(detector),
        list(images.calibration.batch(slice(None))),
        false_alarm_rate=rate,
        radius=radius,
        n_samples=n_samples,
        confidence=confidence,
        seed=detector.detector_config.noise_seed,
        source=source,
        progress=progress,
    )
    detector.update_config(robust_calibration=robust)


def source_of(plan: RunPlan) -> dict[str, Any]:
    """Describe the origin of the calibration images.

    Only the name of the data folder is kept, because model folders are published.

    Args:
        plan: Plan of the run.
    """
    return {"data": Path(plan.data).name, "category": plan.category, "split_seed": plan.train.seed}
