"""New thresholds or a new score for a trained detector, from the normal images of its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advrad.data.splits import normals_needed, rate_in_reach
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import RecordedFigures
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.exported import KEEPS_THRESHOLD
from advrad.detectors.loading import load_detector
from advrad.detectors.saved import SavedDetector, takes_pixels
from advrad.errors import CheckpointError, ConfigError, OutputError
from advrad.training.finalize import choose_score, set_thresholds, source_of
from advrad.training.options import CalibrateOptions
from advrad.training.plan import check_score_options
from advrad.training.threshold_images import plan_of, read_divided_again
from advrad.utils.output_folders import check_output, contents_of
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import radius_of

if TYPE_CHECKING:
    from advrad.detectors.feature_memory import FeatureDetector


def calibrate(
    folder: Path,
    data: Path,
    options: CalibrateOptions | None = None,
    output: Path | None = None,
    *,
    progress: ProgressReporter = SILENT,
) -> SavedDetector:
    """Set a detector's thresholds again, or choose its score again, and save it.

    With a radius, a second threshold keeps the false-alarm rate under any perturbation within it: for AdvRAD that of
    certified verdicts in l2, for a closed form, alone or combined, that of the score itself in linf or l2.

    Args:
        folder: Model folder.
        data: Folder of the images on which the detector was trained; of normal images that were used for nothing else
            for a detector that :func:`advrad.guard` made. Test images are not used.
        options: What to change; None to set the threshold again with the same false-alarm rate.
        output: Folder for the result; None to change the model in place, which is refused for a new score.
        progress: Receives the progress.

    Returns:
        The detector.

    Raises:
        CheckpointError: The model does not record how it was trained.
        ConfigError: An option does not fit, or there are too few images for the rate.
        DataError: The normal images are not those of the training; or a detector of :func:`advrad.guard` was made from
            them.
        OutputError: The folder cannot be written, or is not empty.
    """
    options = options or CalibrateOptions()
    new_score = options.score is not None or options.optimise_for_radius is not None
    _check(options, output, new_score)
    detector = load_detector(folder)
    if takes_pixels(detector):
        raise ConfigError(f"{folder}: {KEEPS_THRESHOLD}")
    _check_rate(options.false_alarm_rate, detector)
    if isinstance(detector, AdvRAD):
        detector = _recalibrate_advrad(detector, folder, data, options, progress)
    else:
        _recalibrate_bounds(detector, folder, data, options, progress)
    detector.save_pretrained(output or folder)
    return detector


def _recalibrate_bounds(
    detector: SavedDetector, folder: Path, data: Path, options: CalibrateOptions, progress: ProgressReporter
) -> None:
    """Set the thresholds of a detector with exact bounds again."""
    from advrad.detectors.closed_form import ClosedFormDetector
    from advrad.detectors.combined import CombinedDetector
    from advrad.detectors.feature_memory import FeatureDetector
    from advrad.detectors.guarded import GuardedDetector
    from advrad.detectors.tiled import TiledDetector
    from advrad.training.recalibrate_bounds import recalibrate_closed_form, recalibrate_held_out, recalibrate_tiled
    from advrad.training.recalibrate_guarded import recalibrate_guarded

    if options.score is not None or options.optimise_for_radius is not None:
        option = "score" if options.score is not None else "optimise_for_radius"
        raise ConfigError(
            "chooses the score of a learned denoiser alone; for this model, train again with it", option=option
        )
    if options.radius is not None and options.norm != "l2":
        radius_of(options.radius, "linf", "radius")
    alone = detector.config.training.loop.steps is None  # no denoiser was trained as well
    if isinstance(detector, GuardedDetector):
        recalibrate_guarded(detector, folder, data, options, progress=progress)
    elif isinstance(detector, FeatureDetector):
        _recalibrate_features(detector, folder, options)
    elif isinstance(detector, TiledDetector):
        recalibrate_tiled(detector, folder, data, options, progress=progress)
    elif isinstance(detector, ClosedFormDetector) and (alone or detector.config.held_out):
        recalibrate_closed_form(detector, folder, data, options, progress=progress)
    elif isinstance(detector, CombinedDetector | ClosedFormDetector):
        plan, counts = plan_of(detector, folder, data)
        recalibrate_held_out(
            detector, read_divided_again(detector, plan, counts, data, progress), options, progress=progress
        )
    else:
        raise CheckpointError(f"{folder}: holds a detector whose threshold cannot be set again; train again")


def _recalibrate_features(detector: FeatureDetector, folder: Path, options: CalibrateOptions) -> None:
    """Set the threshold of a detector on features again, from the calibration scores that it keeps."""
    if options.radius is not None:
        raise ConfigError(
            "needs exact bounds of the score, which features have not; guard them with a closed form ('advrad train"
            " --features patchcore')",
            option="radius",
            value=options.radius,
        )
    before = detector.calibration
    if not before.scores:
        raise CheckpointError(f"{folder}: keeps no calibration scores; call its calibrate with normal images")
    rate = options.false_alarm_rate or before.false_alarm_rate
    changes = {"threshold": conformal_threshold(before.scores, rate), "false_alarm_rate": rate}
    detector.update_config(calibration=before.model_copy(update=changes), figures=RecordedFigures())


def _recalibrate_advrad(
    detector: AdvRAD, folder: Path, data: Path, options: CalibrateOptions, progress: ProgressReporter
) -> AdvRAD:
    """Set the thresholds of an AdvRAD detector again, or choose its score again."""
    if options.norm == "linf":
        raise ConfigError(
            "needs exact bounds of the score, which closed-form detectors have; for this model choose l2",
            option="norm",
            value=options.norm,
        )
    plan, counts = plan_of(detector, folder, data)
    images = read_divided_again(detector, plan, counts, data, progress)
    new_score = options.score is not None or options.optimise_for_radius is not None
    if new_score:
        plan = plan.model_copy(
            update={"score": options.score or "auto", "optimise_for_radius": options.optimise_for_radius}
        )
        progress.stage("Choosing the score")
        trained_s = detector.detector_config.training.seconds or 0.0
        before = detector.config.training
        of_images = ("shapes", "seen", "value_range")
        kept = {name: value for name in of_images if (value := getattr(before, name))}
        detector = choose_score(plan, detector.denoiser, images, detector.device, trained_s, progress)
        detector.update_config(training=detector.config.training.model_copy(update=kept))
    # Figures that were measured with the old thresholds no longer hold.
    detector.update_config(figures=RecordedFigures(), robust_calibration=None)
    progress.stage("Calibrating")
    set_thresholds(
        detector,
        images,
        false_alarm_rate=options.false_alarm_rate or plan.false_alarm_rate,
        radius=options.radius or options.optimise_for_radius,
        source=source_of(plan),
        n_samples=options.n_samples,
        confidence=options.confidence,
        progress=progress,
    )
    return detector


def _check(options: CalibrateOptions, output: Path | None, new_score: bool) -> None:
    """Refuse options and folders that cannot be used, before anything is read."""
    check_score_options(options.score or "auto", options.optimise_for_radius)
    if options.radius == 0:
        raise ConfigError("must be above 0", option="radius", value=options.radius)
    if options.norm is not None and options.radius is None and options.optimise_for_radius is None:
        raise ConfigError("belongs to a radius; give both, or neither", option="norm", value=options.norm)
    if new_score and output is None:
        raise ConfigError("is needed, because a new score makes another model; give a folder for it", option="output")
    if output is not None:
        check_output(output, "model")
        if contents_of(output) is not None:
            raise OutputError(f"{output}: holds a model; give another folder for the result")


def _check_rate(rate: float | None, detector: SavedDetector) -> None:
    """Refuse a rate that needs more images than set the threshold, before they are read."""
    calibration = detector.config.calibration
    if rate is None or calibration is None:
        return
    from advrad.detectors.guarded import GuardedDetector
    from advrad.training.recalibrate_guarded import new_slots, remembers_images

    if isinstance(detector, GuardedDetector):
        if not remembers_images(detector):
            return  # new images set the thresholds
        new_slots(detector, rate)
    if calibration.n >= normals_needed(rate):
        return
    raise ConfigError(
        f"needs {normals_needed(rate)} calibration images, but {calibration.n} set the threshold; train again with more"
        f" normal images, or accept a rate of {rate_in_reach(calibration.n):g} or more",
        option="false_alarm_rate",
        value=rate,
    )
