"""From trained weights to a detector that decides: its score is chosen, then its thresholds are set.

Training ends with it, and ``advrad calibrate`` does it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advrad.certificates.options import CONFIDENCE
from advrad.certificates.options import N_SAMPLES as GUARANTEE_DRAWS
from advrad.certificates.threshold import calibrate_robust_threshold, least_rate
from advrad.certificates.two_path import TwoPath
from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig, ImageCounts, PlanRecord, TrainingRecord
from advrad.detectors.score_config import paper_score
from advrad.training.options import ScoreAim
from advrad.training.plan import RunPlan
from advrad.training.score_selection import REFERENCES, Aim, choose, forced
from advrad.utils.environment import versions
from advrad.utils.precision import takes_bfloat16
from advrad.utils.progress import SILENT, ProgressReporter


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Normal images, by what they are for.

    Attributes:
        train: the weights were learnt from these.
        selection: the score is chosen by these.
        calibration: the thresholds are set by these.
    """

    train: ImageStack
    selection: ImageStack
    calibration: ImageStack

    @property
    def counts(self) -> ImageCounts:
        """Number of images of each sort."""
        return ImageCounts(train=len(self.train), selection=len(self.selection), calibration=len(self.calibration))


def aim_of(score: ScoreAim, optimise_for_radius: float | None) -> Aim:
    """What the score is to be good at."""
    if optimise_for_radius is not None:
        return "radius"
    return "attack" if score == "robust" else "peace"


def choose_score(
    plan: RunPlan,
    denoiser: Denoiser,
    stacks: CalibrationData,
    device: torch.device,
    trained_s: float,
    progress: ProgressReporter,
) -> AdvRAD:
    """Choose how a trained denoiser scores images, as the plan wants it.

    Args:
        plan: of the run.
        denoiser: trained, in evaluation mode.
        stacks: normal images.
        device: to compute on.
        trained_s: seconds that the training took, for the record.
        progress: Receives the progress.

    Returns:
        A detector without thresholds.
    """
    config = plan.train
    bf16 = takes_bfloat16(config.precision, device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    normals = stacks.selection.batch(range(len(stacks.selection)))
    generator = torch.Generator().manual_seed(config.seed)
    references = stacks.train.batch(torch.randperm(len(stacks.train), generator=generator)[:REFERENCES])
    if plan.score == "paper":
        selection = forced(denoiser, references, normals, paper_score(config.size_px), generator, autocast)
    else:
        selection = choose(
            denoiser,
            references,
            normals,
            sorted({view.picture_px for view in config.views}),
            generator,
            autocast=autocast,
            aim=aim_of(plan.score, plan.optimise_for_radius),
            radius=plan.optimise_for_radius,
            progress=progress,
        )
    training = TrainingRecord(
        plan=PlanRecord.model_validate(plan.model_dump(mode="json", exclude={"names", "data"})),
        seconds=round(trained_s, 1),
        images=stacks.counts,
        tried=selection.tried[:50],
        candidates=len(selection.tried),
        winner=selection.winner,
        reason=selection.reason,
        attacked=selection.attacked,
        versions=versions(),
    )
    settings = DetectorConfig(
        denoiser=plan.denoiser,
        size_px=config.size_px,
        score=selection.config,
        noise_seed=config.seed,
        precision=config.precision,
        training=training,
    )
    return AdvRAD(denoiser, settings, selection.statistics).to(device)


def set_thresholds(
    detector: AdvRAD,
    calibration: ImageStack,
    *,
    false_alarm_rate: float,
    radius: float | None,
    source: dict[str, Any],
    draws: int = GUARANTEE_DRAWS,
    confidence: float = CONFIDENCE,
    strict: bool = True,
    progress: ProgressReporter = SILENT,
) -> None:
    """Set a detector's threshold, and for a radius also the one that holds under attack.

    Args:
        detector: to be calibrated.
        calibration: normal images that nothing else was learnt from.
        false_alarm_rate: promised.
        radius: l2, in [0, 1] pixel units of an image of the detector's own size; None for no promise under attack.
        source: provenance, kept with the thresholds.
        draws: that bound each image's score.
        confidence: of each such bound.
        strict: refuse a rate that the promise under attack cannot keep with so few images; else it promises the
            least that it can.
        progress: Receives the progress.

    Raises:
        ConfigError: too few images for the rate, or the radius is out of reach.
    """
    batches = (calibration.batch(range(i, min(i + 8, len(calibration)))) for i in range(0, len(calibration), 8))
    detector.calibrate(batches, false_alarm_rate, source)
    if radius is None:
        return
    rate = false_alarm_rate if strict else max(false_alarm_rate, least_rate(len(calibration), confidence))
    promise = calibrate_robust_threshold(
        TwoPath(detector),
        list(calibration.batch(slice(None))),
        false_alarm_rate=rate,
        radius=radius,
        draws=draws,
        confidence=confidence,
        seed=detector.detector_config.noise_seed,
        source=source,
        progress=progress,
    )
    detector.detector_config = detector.detector_config.model_copy(update={"robust_calibration": promise})


def source_of(plan: RunPlan) -> dict[str, Any]:
    """Provenance of the thresholds. The folder's name, not its path: model folders are published."""
    return {"data": Path(plan.data).name, "category": plan.category, "split_seed": plan.train.seed}
