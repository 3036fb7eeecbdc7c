"""Setting a detector's thresholds anew, and choosing its score anew, from the normal images it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from advrad.certificates.threshold import CONFIDENCE, N_SAMPLES
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.splits import split_normals
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.loading import load_detector
from advrad.errors import CheckpointError, ConfigError, DataError, OutputError
from advrad.training.finalize import CalibrationData, choose_score, set_thresholds, source_of
from advrad.training.plan import RunPlan, ScoreAim, refuse_two_aims
from advrad.utils.config import Config
from advrad.utils.progress import SILENT, ProgressReporter


class CalibrateOptions(Config):
    """What a caller may ask for; None leaves what the detector has.

    Attributes:
        false_alarm_rate: of the thresholds.
        radius: within which a threshold for certified verdicts shall keep that rate, l2 in [0, 1] pixel units of an
            image of the detector's size.
        score: choose the score anew: ``auto``, ``robust`` or ``paper``.
        optimise_for_radius: choose the score anew, for what can be certified within this radius.
        draws: that bound each calibration image's score.
        confidence: of each such bound.
    """

    false_alarm_rate: float | None = None
    radius: float | None = None
    score: ScoreAim | None = None
    optimise_for_radius: float | None = None
    draws: int = Field(N_SAMPLES, ge=2)
    confidence: float = Field(CONFIDENCE, gt=0, lt=1)


def calibrate(
    folder: Path, data: Path, options: CalibrateOptions, out: Path | None = None, *, progress: ProgressReporter = SILENT
) -> AdvRAD:
    """Set thresholds anew, and save the detector.

    Args:
        folder: of the model.
        data: the images that it was trained with; test images in it are not looked at.
        options: what is asked for.
        out: folder for the result; None to change the model in place, which a new score is too much for.
        progress: Receives the progress.

    Returns:
        The detector.

    Raises:
        CheckpointError: the model does not tell how it was trained.
        ConfigError: an option does not fit, or the images are too few for the rate.
        DataError: the normal images are not those of the training.
        OutputError: the folder cannot be written, or holds something already.
    """
    rechosen = options.score is not None or options.optimise_for_radius is not None
    refuse_two_aims(options.score or "auto", options.optimise_for_radius)
    if options.radius is not None and not 0 < options.radius < float("inf"):
        raise ConfigError(f"--radius {options.radius:g}: must be above 0")
    if rechosen and out is None:
        raise ConfigError("-o: is needed, because a new score makes another model; name a folder for it")
    if out is not None and ((out / "config.json").exists() or (out.exists() and not out.is_dir())):
        raise OutputError(f"{out}: holds a model, or is a file; name another folder with -o")
    detector = load_detector(folder)
    plan, counts = _plan_of(detector, folder, data)
    stacks = _stacks_of(plan, counts, data, progress)
    if rechosen:
        plan = plan.model_copy(
            update={"score": options.score or "auto", "optimise_for_radius": options.optimise_for_radius}
        )
        progress.stage("Choosing the score")
        trained_s = float(detector.detector_config.training["seconds"])
        detector = choose_score(plan, detector.denoiser, stacks, detector.device, trained_s, progress)
    # Figures that were measured with other thresholds no longer hold.
    detector.detector_config = detector.detector_config.model_copy(update={"figures": {}, "guarantee": None})
    progress.stage("Calibrating")
    set_thresholds(
        detector,
        stacks.calibration,
        false_alarm_rate=options.false_alarm_rate or plan.false_alarm_rate,
        radius=options.radius or options.optimise_for_radius,
        source=source_of(plan),
        draws=options.draws,
        confidence=options.confidence,
        progress=progress,
    )
    detector.save_pretrained(out or folder)
    return detector


def _plan_of(detector: AdvRAD, folder: Path, data: Path) -> tuple[RunPlan, dict[str, int]]:
    """How a detector was trained, and with how many images of each sort."""
    training: dict[str, Any] = detector.detector_config.training
    try:
        values = training["plan"] | {"data": str(data.resolve()), "names": ()}
        return RunPlan.parse(values, str(folder / "config.json")), dict(training["pictures"])
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{folder}: does not tell how it was trained, so its normal images cannot be shared out again; train anew"
        ) from None


def _stacks_of(plan: RunPlan, counts: dict[str, int], data: Path, progress: ProgressReporter) -> CalibrationData:
    """The normal images, shared out as in training."""
    dataset = find_records(data, plan.layout, plan.category)
    split = split_normals(dataset.records, plan.train.seed, false_alarm_rate=plan.false_alarm_rate)
    progress.stage("Reading images")
    parts = (split.train, split.selection, split.calibration)
    stacks = CalibrationData(
        *(
            load_images(part, plan.train.size_px, skip_bad=plan.skip_bad, max_pixels=plan.max_pixels, progress=progress)
            for part in parts
        )
    )
    found = {
        "train": len(stacks.train),
        "selection": len(stacks.selection),
        "calibration": len(stacks.calibration),
    }
    if found != counts:
        raise DataError(
            f"{data}: the normal images are not those of the training ({sum(found.values())} now,"
            f" {sum(counts.values())} then); calibrating on images that it was trained with would break the promise"
        )
    return stacks
