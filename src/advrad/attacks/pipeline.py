"""Attack a detector on a data set: from the detector and the data to stored results."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from advrad.attacks import exported, sanity_checks, suite
from advrad.attacks.bounds_check import check_bounds
from advrad.attacks.evaluation import ImageSet, evaluate_robustness
from advrad.attacks.options import AttackOptions, AttackSettings
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.registry import CONFINED
from advrad.attacks.results import AttackResult, ChecksResult
from advrad.attacks.sanity_checks import Flag
from advrad.attacks.selection import requested_attacks
from advrad.attacks.summary import summarize
from advrad.attacks.threat import Threat
from advrad.data.labelled import load_labelled
from advrad.data.options import DataOptions
from advrad.detectors.base import AnomalyDetector, SupportsGradientPrecision, SupportsScoreBounds, SupportsTwoPath
from advrad.detectors.loading import LoadedDetector, to_loaded
from advrad.detectors.probing import score_images
from advrad.detectors.saved import framing_for, seen_by, takes_pixels
from advrad.detectors.wrappers import takes_colour
from advrad.errors import ConfigError
from advrad.utils.environment import versions
from advrad.utils.output_folders import check_output
from advrad.utils.precision import Precision
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import seed_of

if TYPE_CHECKING:
    from advrad.data.labelled import DataSource

#: Side of images for a detector that takes any size, in pixels.
DEFAULT_SIZE_PX = 256

_CONFINED_NOTE = "confined to a part of the ball: shows what such a perturbation can do, not how robust the detector is"


@dataclass(frozen=True, eq=False)
class AttackJob:
    """A detector and the images on which it is attacked.

    Attributes:
        detector: Detector, with its identity and model folder.
        images: Images.
        masks: Ground-truth masks, (n, h, w); None if there are none.
        mask_known: Whether the mask of each image is known, (n,); None without masks.
        category: Name of the product.
        warnings: What makes the result doubtful, such as images of another shape than those of the training.
    """

    detector: LoadedDetector
    images: ImageSet
    masks: npt.NDArray[np.bool_] | None
    mask_known: npt.NDArray[np.bool_] | None
    category: str
    warnings: tuple[str, ...] = ()


def attack(
    detector: Any,
    data: DataSource,
    *,
    norm: str = "linf",
    eps: float | str = 2 / 255,
    budget: str = "quick",
    attack: str = "suite",
    output: str | Path | None = None,
    progress: ProgressReporter = SILENT,
    source: Any = None,
    options: DataOptions = DataOptions(),
    **settings: Unpack[AttackSettings],
) -> AttackResult:
    """Measure how well a detector withstands adversarial attacks.

    Every image is changed within the threat model so that its score moves towards the other class. The worst case over
    all attacks counts, scored again on noise that no attack has seen.

    Args:
        detector: Detector of a model folder, or anything that :func:`advrad.wrap` takes, or an
            :class:`advrad.detectors.base.AnomalyDetector`, or a :class:`advrad.detectors.loading.LoadedDetector`.
            Modules are put in evaluation mode, and the parameters of an ``AdvRAD`` are frozen.
        data: Test images of both classes: a folder, ``FILE.py:NAME``, a datamodule, or a pair of images in memory, as
            :func:`advrad.evaluate` takes them, and labels, (n,), 0 for normal and 1 for anomalous.
        norm: Norm of the threat model: ``linf`` or ``l2``.
        eps: Radius for pixel values in [0, 1]: a number, or a fraction such as ``"2/255"``.
        budget: Effort of the suite: ``quick``, ``standard`` or ``full``.
        attack: ``suite``, ``pgd``, ``apgd``, ``square``, ``transfer``, ``lowfrequency`` or ``patch``.
        output: Folder for the result; a run that was interrupted is resumed there. None stores the result in the model
            folder of a ``LoadedDetector``, and nowhere for other detectors.
        progress: Receives the number of images that are finished.
        source: Detector whose gradients the attack ``transfer`` uses. For an export, also with ``square``: the model
            that was exported, to be attacked as well and reported beside it.
        options: How image files are found and read.
        settings: Further settings, see :class:`advrad.attacks.options.AttackSettings`.

    Returns:
        The figures, the results of all images, and reasons to distrust them.

    Raises:
        ConfigError: An option is unknown or does not fit the detector.
        DataError: The data cannot be used.
        DetectorError: The detector's output is not valid.
        OutputError: The output folder cannot be written, or holds another run.

    Example:
        >>> import advrad, torch
        >>> images = 0.5 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> images[4:, :, 4:8, 4:8] = 1.0  # bright spots
        >>> detector = advrad.wrap(lambda images: images.amax((1, 2, 3)), deterministic=True)
        >>> attacked = advrad.attack(detector, (images, [0] * 4 + [1] * 4), attack="pgd", eps="8/255", steps=5)
        >>> attacked.clean_auroc, attacked.robust_auroc
        (1.0, 1.0)
    """
    from accelerate import PartialState

    fields = {"data": options, "attack": attack, "norm": norm, "eps": str(eps), "budget": budget}
    asked = AttackOptions.parse(fields | settings)
    if output is not None:
        check_output(Path(output), "results")
    loaded = to_loaded(detector)
    job = prepare(loaded, data, asked)
    source_detector = None if source is None else to_loaded(source).detector
    if loaded.folder is not None:
        folder = None if output is None else Path(output)
        return run_attack(job, asked, folder, source=source_detector, progress=progress)
    if output is not None:
        job = replace(job, detector=_identified(loaded, job.images))
        return run_attack(job, asked, Path(output), source=source_detector, progress=progress)
    if asked.save_images:
        raise ConfigError("needs an output folder; name one", option="save_images")
    if PartialState().num_processes > 1:
        raise ConfigError("is needed for several processes; name a folder", option="output")
    with TemporaryDirectory(prefix="advrad-") as temporary:
        result = run_attack(job, asked, Path(temporary), source=source_detector, progress=progress)
    return replace(result, folder=None)


def _identified(loaded: LoadedDetector, images: ImageSet) -> LoadedDetector:
    """Add a digest of some scores to the identity of a detector in memory.

    Without it, a folder with the results of one detector would be taken for those of another of the same class.
    """
    scores, _ = score_images(loaded.detector, images.examples, seed_of("identity"), images.example_names)
    return replace(loaded, identity=f"{loaded.identity} {hashlib.sha256(scores.tobytes()).hexdigest()}")


def prepare(detector: LoadedDetector, data: DataSource, options: AttackOptions) -> AttackJob:
    """Load the images to attack, at the size at which the detector takes them.

    Args:
        detector: Detector.
        data: Test images of both classes, see :func:`attack`.
        options: Options of the attack.

    Raises:
        DataError: An image cannot be read, a class is missing, or tensors have a size that the detector does not take.
    """
    target = detector.detector
    _plan_of(options, target)  # refuses options before any image is read
    framing = framing_for(target, None if target.size_px else options.size_px) or DEFAULT_SIZE_PX
    colour = takes_colour(target)
    found = load_labelled(data, framing, options.data, options.limit, options.seed, colour=colour, seen=seen_by(target))
    if not isinstance(target, SupportsTwoPath):  # which takes images of any size
        found.check_size(target.size_px)
    pixels = exported.in_8_bits(found.images) if takes_pixels(target) else found.images
    images = ImageSet(pixels, found.labels, found.names)
    return AttackJob(detector, images, found.masks, found.mask_known, found.category, found.warnings)


def run_attack(
    job: AttackJob,
    options: AttackOptions,
    folder: Path | None = None,
    *,
    source: AnomalyDetector | None = None,
    progress: ProgressReporter = SILENT,
) -> AttackResult:
    """Attack a detector, look for reasons to distrust the result, and store both.

    Args:
        job: Detector and images.
        options: Options of the attack.
        folder: Folder for the result; None for one inside the model folder, named after the plan.
        source: Detector whose gradients a transfer attack uses. If an attacked export was made from it, it is attacked
            as well, with its own gradients where the attack is ``transfer``, and reported beside the export.
        progress: Receives the number of images that are finished.

    Returns:
        The result, which is also stored in ``result.json`` and ``rows.jsonl``.

    Raises:
        UserError: An option does not fit, the detector's output is not valid, or the folder cannot be written.
    """
    from accelerate import PartialState

    state = PartialState()
    detector = job.detector.detector
    plan, gradient_detector = _plan_of(options, detector)
    if source is not None:
        exported.check_source(source)
    folder = folder or _result_folder(job, options, plan)
    found = evaluate_robustness(
        detector,
        job.images,
        plan,
        folder,
        gradient_detector=gradient_detector,
        source=source,
        identity=job.detector.identity,
        save_images=options.save_images,
        process=(state.process_index, state.num_processes),
        progress=progress,
        wait=state.wait_for_everyone,
    )
    eot = max(spec.eot for spec in found.attacks)
    flags = sanity_checks.check_detector(detector, job.images.examples, options.seed, eot)
    flags += sanity_checks.check_result(found)
    doubts, meaningless = sanity_checks.check_scores(found, from_folder=job.detector.folder is not None)
    flags = [*(Flag("doubtful data", text) for text in job.warnings), *doubts, *flags]
    bounds = None
    if isinstance(detector, SupportsScoreBounds):
        bounds = check_bounds(detector, job.images.images, found.rows, plan.threat)
        flags += [] if bounds.flag is None else [bounds.flag]
    of_suite = options.attack == "suite"
    original = None
    if source is not None and exported.is_original(detector, source):
        original = _attack_original(job, options, folder, source, progress)
    result = AttackResult(
        **vars(summarize(found, detector.threshold, job.masks, job.mask_known)),
        attack=options.attack,
        budget=options.budget if of_suite else None,
        suite_version=suite.VERSION if of_suite else None,
        note=meaningless or _note(options, detector),
        attacks=tuple(spec.name for spec in found.attacks),
        flags=tuple(flags),
        bounds=bounds,
        category=job.category,
        folder=folder,
        versions=versions(),
        rows=found.rows,
        original=original,
    )
    if state.is_main_process:
        result.save(folder)
    return result


def _note(options: AttackOptions, detector: AnomalyDetector) -> str | None:
    """Restriction of an attack that limits what its figures mean; None for none."""
    if takes_pixels(detector):
        return exported.NOTE
    return _CONFINED_NOTE if options.attack in CONFINED else None


def _attack_original(
    job: AttackJob, options: AttackOptions, folder: Path, source: AnomalyDetector, progress: ProgressReporter
) -> AttackResult:
    """Attack the detector that was exported, on the same images: with its gradients if the export got its images."""
    own = options.model_copy(update={"attack": "pgd"}) if options.attack == "transfer" else options
    loaded = replace(job.detector, detector=source, identity=f"original of {job.detector.identity}")
    return run_attack(replace(job, detector=loaded), own, folder / "original", progress=progress)


def _plan_of(options: AttackOptions, detector: AnomalyDetector) -> tuple[AttackPlan, AnomalyDetector]:
    """The plan of an attack, and the detector with the precision of its gradients.

    Raises:
        ConfigError: An option is unknown, out of range, or does not suit the detector.
    """
    exported.check_attack(detector, options.attack)
    gradient_detector = _with_gradient_precision(detector, options.gradients)
    plan = AttackPlan(
        threat=Threat.of(options.norm, options.eps),
        attacks=requested_attacks(options, detector),
        seed=options.seed,
        noise=options.noise,
        gradient_precision=_gradient_precision(gradient_detector),
    )
    return plan, gradient_detector


def _with_gradient_precision(detector: AnomalyDetector, precision: Precision) -> AnomalyDetector:
    """The detector with another precision of its gradients; the detector itself if that changes nothing.

    Raises:
        ConfigError: The detector does not offer bfloat16.
    """
    if isinstance(detector, SupportsGradientPrecision):
        other = detector.with_gradient_precision(precision)
        return detector if _gradient_precision(other) == detector.gradient_precision else other
    if precision == "bfloat16":
        raise ConfigError("only AdvRAD detectors offer it; leave it out", option="gradients", value=precision)
    return detector


def _gradient_precision(detector: AnomalyDetector) -> Literal["float32", "bfloat16"]:
    return detector.gradient_precision if isinstance(detector, SupportsGradientPrecision) else "float32"


def _result_folder(job: AttackJob, options: AttackOptions, plan: AttackPlan) -> Path:
    """A folder for each plan and choice of images, inside the model folder."""
    label = f"{options.attack}-{options.norm}-{options.eps.replace('/', '-')}"
    return job.detector.result_folder(
        "attacks", label, [plan.model_dump(mode="json"), job.images.names, job.detector.identity]
    )


def run_checks(
    job: AttackJob, options: AttackOptions, folder: Path | None = None, *, progress: ProgressReporter = SILENT
) -> ChecksResult:
    """Make all sanity checks, including those that run attacks of their own.

    Args:
        job: Detector and images.
        options: Options; only threat model, eot, steps and seed are used.
        folder: Folder for the result; None for one inside the model folder.
        progress: Receives the number of attacks that are finished.

    Returns:
        The result, which is also stored in ``checks.json``.

    Raises:
        UserError: An option does not fit, the detector's output is not valid, or the folder cannot be written.
    """
    threat = Threat.of(options.norm, options.eps)
    detector = job.detector.detector
    exported.check_attack(detector, "checks")
    if folder is None:
        plan = AttackPlan(threat=threat, attacks=(AttackSpec(attack="pgd"),), seed=options.seed)
        folder = _result_folder(job, options.model_copy(update={"attack": "checks"}), plan)
    flags = sanity_checks.check_detector(detector, job.images.examples, options.seed, options.eot)
    more, areas = sanity_checks.check_escalation(
        detector,
        job.images,
        threat,
        folder,
        seed=options.seed,
        steps=options.steps or 20,
        eot=options.eot,
        identity=job.detector.identity,
        from_folder=job.detector.folder is not None,
        progress=progress,
    )
    flags += [flag for flag in more if flag not in flags]
    result = ChecksResult(flags=tuple(flags), auroc=areas, n_images=len(job.images.names))
    result.save(folder)
    return result
