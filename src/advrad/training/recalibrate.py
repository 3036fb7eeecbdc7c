"""Setting a detector's thresholds anew, and choosing its score anew, from the normal images it was trained with."""

from __future__ import annotations

from pathlib import Path

from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.splits import split_normals
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import ImageCounts, RecordedFigures
from advrad.detectors.loading import load_detector
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.errors import CheckpointError, ConfigError, DataError, OutputError
from advrad.training.finalize import CalibrationData, choose_score, set_thresholds, source_of
from advrad.training.options import CalibrateOptions
from advrad.training.plan import RunPlan, refuse_two_aims
from advrad.utils.progress import SILENT, ProgressReporter


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
    if out is not None and ((out / CONFIG_NAME).exists() or (out.exists() and not out.is_dir())):
        raise OutputError(f"{out}: holds a model, or is a file; name another folder with -o")
    detector = load_detector(folder)
    plan, counts = _plan_of(detector, folder, data)
    stacks = _stacks_of(plan, counts, data, progress)
    if rechosen:
        plan = plan.model_copy(
            update={"score": options.score or "auto", "optimise_for_radius": options.optimise_for_radius}
        )
        progress.stage("Choosing the score")
        trained_s = detector.detector_config.training.seconds or 0.0
        detector = choose_score(plan, detector.denoiser, stacks, detector.device, trained_s, progress)
    # Figures that were measured with other thresholds no longer hold.
    detector.detector_config = detector.detector_config.model_copy(
        update={"figures": RecordedFigures(), "robust_calibration": None}
    )
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


def _plan_of(detector: AdvRAD, folder: Path, data: Path) -> tuple[RunPlan, ImageCounts]:
    """How a detector was trained, and with how many images of each sort."""
    training = detector.detector_config.training
    if training.plan is None or training.images is None:
        raise CheckpointError(
            f"{folder}: does not tell how it was trained, so its normal images cannot be shared out again; train anew"
        )
    values = training.plan.to_dict() | {"data": str(data.resolve()), "names": ()}
    return RunPlan.parse(values, str(folder / CONFIG_NAME)), training.images


def _stacks_of(plan: RunPlan, counts: ImageCounts, data: Path, progress: ProgressReporter) -> CalibrationData:
    """The normal images, shared out as in training."""
    dataset = find_records(data, plan.data_options)
    split = split_normals(dataset.records, plan.train.seed, false_alarm_rate=plan.false_alarm_rate)
    progress.stage("Reading images")
    parts = (split.train, split.selection, split.calibration)
    stacks = CalibrationData(
        *(load_images(part, plan.train.size_px, plan.data_options, progress=progress) for part in parts)
    )
    found = stacks.counts
    if found != counts:
        raise DataError(
            f"{data}: the normal images are not those of the training ({found.total} now, {counts.total} then); calibrating on images that it was trained with would break the promise"
        )
    return stacks
