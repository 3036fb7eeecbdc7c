"""Certification with exact bounds, from the options to the stored result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advrad.certificates.attack_results import EXACT_SUFFIX
from advrad.certificates.bounds_evaluation import BoundsPlan, evaluate_bounds
from advrad.certificates.bounds_summary import summarize_bounds
from advrad.certificates.inputs import load_test_images
from advrad.certificates.job import Job
from advrad.certificates.options import CertifyOptions
from advrad.certificates.radii import DEFAULT_RADII, parse_radii
from advrad.certificates.results import CertificationResult
from advrad.certificates.threshold import robust_calibration_of
from advrad.detectors.base import AnomalyDetector, SupportsScoreBounds, SupportsStickerBounds
from advrad.errors import ConfigError
from advrad.utils.formatting import radius_text
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import Norm

if TYPE_CHECKING:
    from advrad.data.labelled import DataSource
    from advrad.detectors.loading import LoadedDetector


@dataclass(frozen=True, eq=False)
class BoundsJob(Job):
    """A certification with exact bounds that is ready to run.

    Attributes:
        plan: Plan of the certification.
    """

    plan: BoundsPlan


def wants_bounds(detector: AnomalyDetector, options: CertifyOptions) -> bool:
    """Decide whether a detector is certified with exact bounds, or with noise.

    Args:
        detector: Detector.
        options: Options of the certification.

    Raises:
        ConfigError: The detector cannot bound its scores but norm or method need it, or method and norm contradict each
            other.
    """
    able = isinstance(detector, SupportsScoreBounds)
    if options.norm == "linf" and options.method not in ("auto", "bounds"):
        raise ConfigError(
            f"method {options.method} certifies l2 only; leave out the method", option="norm", value=options.norm
        )
    if not able and (options.norm == "linf" or options.method == "bounds"):
        option, value = ("method", "bounds") if options.method == "bounds" else ("norm", "linf")
        raise ConfigError(
            "needs exact bounds of the score, which closed-form detectors have ('advrad train' without minutes makes"
            " one); this detector has none, so choose norm l2, which adds noise",
            option=option,
            value=value,
        )
    if not able and options.sticker_px is not None:
        raise ConfigError(
            "needs a closed-form detector; this detector's scores cannot be bounded under a sticker",
            option="sticker_px",
            value=options.sticker_px,
        )
    return able and options.method in ("auto", "bounds")


def bounds_threshold(detector: AnomalyDetector, norm: Norm, radii: tuple[float, ...]) -> tuple[float | None, list[str]]:
    """Choose the threshold for proven verdicts.

    The threshold that was calibrated for attacks is used where one of the radii is the one that it was set for.

    Args:
        detector: Detector.
        norm: Norm of the perturbations.
        radii: Radii of the verdicts.

    Returns:
        The threshold, None if there is none, and notes on it for the user.
    """
    robust = robust_calibration_of(detector)
    if robust is None:
        threshold = detector.threshold
        return threshold, [] if threshold is not None else ["the detector has no threshold, so no verdicts are proven"]
    place = f"{robust.norm} {radius_text(robust.radius, robust.norm)}"
    if robust.norm == norm and any(abs(radius - robust.radius) <= 1e-6 * robust.radius for radius in radii):
        return robust.threshold, [
            f"the threshold is the one set for {place}: a normal image is called defective with a probability of at"
            f" most {robust.false_alarm_rate:g}, whatever perturbation within that radius it has"
        ]
    return detector.threshold, [
        f"the threshold is the one for images without perturbation; the one set for {place} is used if this radius is"
        " certified"
    ]


def prepare_bounds(
    loaded: LoadedDetector, data: DataSource, options: CertifyOptions, folder: Path | None = None
) -> BoundsJob:
    """Load the images and make the plan. Nothing is written yet, so that bad options leave nothing behind.

    Args:
        loaded: Detector that can bound its scores.
        data: Test images.
        options: Options of the certification.
        folder: Folder for the bounds and the result; None for one inside the model folder, named by the plan.

    Returns:
        The job.

    Raises:
        UserError: An option does not fit, or an image cannot be read.
    """
    norm: Norm = options.norm or "linf"
    if options.sigma is not None:
        raise ConfigError("applies to method percentile; exact bounds need no noise", option="sigma")
    if options.sticker_px is not None and not isinstance(loaded.detector, SupportsStickerBounds):
        raise ConfigError(
            "this detector's score cannot be bounded under a sticker", option="sticker_px", value=options.sticker_px
        )
    radii = DEFAULT_RADII[norm] if options.radius is None else parse_radii(options.radius, norm)
    images = load_test_images(loaded.detector, data, options)
    threshold, notes = bounds_threshold(loaded.detector, norm, radii)
    notes += images.warnings
    defaults = CertifyOptions.model_fields
    if options.n_samples != defaults["n_samples"].default or options.confidence != defaults["confidence"].default:
        notes.append("the bounds are exact, so no noise is drawn and the confidence is not needed")
    plan = BoundsPlan(norm=norm, radii=tuple(sorted(radii)), threshold=threshold, sticker_px=options.sticker_px)
    depends_on: list[object] = [plan.model_dump(mode="json"), images.names, images.digest, loaded.identity]
    folder = folder or loaded.result_folder("certificates", f"bounds-{norm}", depends_on)
    return BoundsJob(loaded, images, folder, tuple(notes), options.own_size, plan)


def run_bounds(job: BoundsJob, *, progress: ProgressReporter = SILENT) -> CertificationResult:
    """Run a certification with exact bounds and store its result.

    Args:
        job: Detector, images and plan. What an earlier run finished in its folder is kept.
        progress: Receives the number of certified images.

    Returns:
        The result, also stored in the job's folder as ``result.json`` and ``rows.jsonl``.

    Raises:
        UserError: The folder cannot be written, or holds another run; or an image cannot be read.
    """
    from accelerate import PartialState

    detector = job.loaded.detector
    if not isinstance(detector, SupportsScoreBounds):
        raise ConfigError("this detector cannot bound its scores; choose method percentile", option="method")
    state = PartialState()
    rows = evaluate_bounds(
        detector,
        job.images,
        job.plan,
        job.folder,
        identity=job.loaded.identity + EXACT_SUFFIX,
        process=(state.process_index, state.num_processes),
        progress=progress,
        wait=state.wait_for_everyone,
    )
    figures = summarize_bounds(rows, job.plan)
    return job.finish(figures, rows, method="bounds", norm=job.plan.norm, write=state.is_main_process)
