"""What the command ``certify`` does: find detector and images, certify, and reckon up the figures."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from advrad.certificates.evaluation import CertifiedImages, CertifyPlan, check_reach, evaluate_certificates
from advrad.certificates.options import CertifyOptions, Method, PredictionCertificateOptions
from advrad.certificates.smoothing import Percentile, Sampler
from advrad.certificates.summary import above, meaning, summarize
from advrad.certificates.threshold import certified_threshold
from advrad.certificates.two_path import TwoPath
from advrad.data.images import examine, read_image
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.splits import sample_test_records
from advrad.data.transforms import to_tensor
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.loading import LoadedDetector
from advrad.detectors.probing import probe
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError
from advrad.utils.environment import versions
from advrad.utils.files import make_folder, write_json, write_text
from advrad.utils.progress import SILENT, ProgressReporter

#: Radii that are tried where none are asked for, as far as the draws reach.
RADII = (0.1, 0.2, 0.5)

#: Rounding an image to 8 bits moves each value by up to half a level, evenly: per value, the root of the mean square.
ROUNDING = 1 / 255 / 12**0.5


def radii_of(typed: str) -> tuple[float, ...]:
    """Radii, as a person types them.

    Raises:
        ConfigError: one is no number, or below 0, or none is given.
    """
    found = []
    for word in typed.split(","):
        try:
            radius = float(word)
        except ValueError:
            raise ConfigError(f"--radius {typed}: '{word}' is no number; give some, such as 0.1,0.2") from None
        check_radius(radius)
        found.append(radius)
    return tuple(dict.fromkeys(found))


def check_radius(radius: float) -> None:
    """Refuse what is no length.

    Raises:
        ConfigError: says why.
    """
    if not 0 <= radius < np.inf:
        raise ConfigError(f"--radius {radius:g}: must be 0 or more")


def check_confidence(confidence: float, draws: int) -> None:
    """Refuse what no number of draws, or a single one, could prove.

    Raises:
        ConfigError: says why.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence {confidence:g}: must lie strictly between 0 and 1; nothing drawn is certain")
    if draws < 2:
        raise ConfigError(f"--draws {draws}: must be at least 2; of a single draw nothing can be told")


def prediction_certificate_plan(
    detector: AdvRAD, options: PredictionCertificateOptions
) -> tuple[CertifyPlan, list[str]]:
    """How the images that a detector judges are certified, and what is to be said of that beforehand.

    Raises:
        ConfigError: an option makes no sense.
        NotCalibratedError: there is no threshold.
    """
    check_radius(options.radius)
    check_confidence(options.confidence, options.draws)
    threshold, warnings = certified_threshold(detector)
    promise = detector.detector_config.robust_calibration
    if promise is not None and options.confidence < promise.confidence:
        warnings.append(
            f"--confidence {options.confidence:g}: the false-alarm rate of certified verdicts is promised for"
            f" {promise.confidence:g} or more"
        )
    plan = CertifyPlan(
        radii=(options.radius,),
        draws=options.draws,
        confidence=options.confidence,
        threshold=detector.calibration.threshold if threshold is None else threshold,
        seed=secrets.randbits(53) if options.seed is None else options.seed,
    )
    return plan, warnings


def sampler_for(
    accused: LoadedDetector, method: Method, sigma: float | None, largest: float, example: Tensor
) -> Sampler:
    """The way in which a detector's score is certified.

    Args:
        accused: the detector.
        method: that is asked for.
        sigma: of the noise that ``percentile`` adds; None for ``largest``.
        largest: radius that is asked for.
        example: (1, c, h, w) an image, to find out whether the detector draws noise.

    Raises:
        ConfigError: the method does not suit the detector, or sigma the method.
        DetectorError: the detector answers with no score.
    """
    detector = accused.detector
    if isinstance(detector, WhiteBoxAdvRAD) and method != "percentile":
        if sigma is not None:
            raise ConfigError(
                "--sigma: goes with --method percentile; the two-path certificate uses the detector's own noise"
            )
        return TwoPath(detector.detector)
    if method == "two-path":
        raise ConfigError(
            "--method two-path: bounds the score of a model folder only; choose --method percentile for other detectors"
        )
    if sigma is None and largest == 0:
        raise ConfigError("--sigma: is needed where the only radius is 0; say how much noise is added to the images")
    noise = largest if sigma is None else sigma
    # It must say so itself, too: one saturated probe would show no noise.
    deterministic = probe(detector, example).deterministic and detector.deterministic
    return Percentile(detector, noise, deterministic)


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Test images as a certificate speaks of them.

    Attributes:
        images: all of them.
        category: the product.
        sides: height and width of each, or of all where they are equal.
    """

    images: CertifiedImages
    category: str
    sides: tuple[tuple[int, int], ...]


def load_test_images(accused: LoadedDetector, data: Path, options: CertifyOptions) -> GivenImages:
    """Find the test images.

    Raises:
        ConfigError: the detector does not take images of the size that is asked for.
        DataError: an image cannot be read, or one kind is missing.
    """
    needs_px = None if isinstance(accused.detector, WhiteBoxAdvRAD) else accused.detector.size_px
    if options.own_size and options.size_px is not None:
        raise ConfigError("--size and --own-size: contradict each other; give one of them")
    if needs_px is not None and (options.own_size or options.size_px not in (None, needs_px)):
        asked = "--own-size" if options.own_size else f"--size {options.size_px}"
        raise ConfigError(f"{asked}: this detector takes images of {needs_px} px only; leave it out")
    dataset = find_records(data, options.data)
    records = sample_test_records(dataset.records, options.limit, options.seed)
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in records)
    labels = np.array([record.label for record in records], dtype=np.int64)
    if options.own_size:
        infos = [examine(record.path, options.data.max_pixels) for record in records]
        told = hashlib.sha256()
        for record in records:
            told.update(hashlib.sha256(record.path.read_bytes()).digest())

        def load(index: int) -> Tensor:
            return to_tensor(read_image(records[index].path, options.data.max_pixels))

        sides = tuple((info.height_px, info.width_px) for info in infos)
        return GivenImages(CertifiedImages(load, labels, names, told.hexdigest()), dataset.category, sides)
    size_px = options.size_px or accused.detector.size_px or 256
    images = load_images(records, size_px, options.data).batch(slice(None))
    # As in an audit, so that its images can be known again.
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return GivenImages(
        CertifiedImages(images.__getitem__, labels, names, digest), dataset.category, ((size_px, size_px),)
    )


@dataclass(frozen=True, eq=False)
class CertificationJob:
    """A certification, ready to begin.

    Attributes:
        accused: the detector.
        images: its images.
        sampler: of its score.
        plan: of the certification.
        folder: of the rows and the result.
        identity: of the detector and of the method.
        notes: what is to be said of the plan.
        own_size: whether images are given at the sizes of their files.
    """

    accused: LoadedDetector
    images: GivenImages
    sampler: Sampler
    plan: CertifyPlan
    folder: Path
    identity: str
    notes: tuple[str, ...]
    own_size: bool


def prepare(
    accused: LoadedDetector, data: Path, options: CertifyOptions, folder: Path | None = None
) -> CertificationJob:
    """Find the images and the plan; whatever is wrong with the options shows here, before anything is written.

    Args:
        accused: the detector.
        data: folder of images.
        options: of the certification.
        folder: of the rows and the result; None for one inside the model folder, whose name tells the plan.

    Raises:
        UserError: an option does not fit, a radius is out of reach, or an image cannot be read.
    """
    check_confidence(options.confidence, options.draws)
    radii = RADII if options.radius is None else radii_of(options.radius)
    shown = load_test_images(accused, data, options)
    sampler = sampler_for(accused, options.method, options.sigma, max(radii), shown.images.load(0)[None])
    threshold, notes = threshold_of(accused, sampler)
    plan = CertifyPlan(
        radii=radii, draws=options.draws, confidence=options.confidence, threshold=threshold, seed=options.seed
    )
    if options.radius is None:
        plan, note = _within_reach(sampler, shown, plan)
        notes += note
    # For all images: a radius may be in reach of the larger ones alone.
    _check_reach(sampler, shown, plan)
    sigma = f" {sampler.sigma}" if isinstance(sampler, Percentile) else ""
    identity = f"{accused.identity} {sampler.method}{sigma}"
    told: list[object] = [plan.model_dump(mode="json"), shown.images.names, shown.images.digest, identity]
    folder = folder or accused.place("certificates", sampler.method, told)
    return CertificationJob(accused, shown, sampler, plan, folder, identity, tuple(notes), options.own_size)


def certify(case: CertificationJob, *, progress: ProgressReporter = SILENT) -> dict[str, Any]:
    """Certify a detector on test images.

    Args:
        case: detector, images and plan.
        progress: Receives the progress.

    Returns:
        As :func:`advrad.certificates.summary.summarize`, and ``method``, ``sigma``, ``quantile``, ``category``, ``folder``;
        ``size``, of the images as given; ``rounding_l2``, how far rounding such an image to 8 bits moves it;
        ``attacked``, see :func:`attacked`; ``meaning``, what the figures say and what not, in sentences; ``notes``;
        ``warnings``, see :func:`advrad.certificates.summary.above`. The same lies in
        ``result.json``, the rows in ``rows.jsonl``.

    Raises:
        UserError: the folder cannot be written, or holds another run; an image cannot be read.
    """
    from accelerate import PartialState

    state, shown, plan = PartialState(), case.images, case.plan
    make_folder(case.folder)
    rows = evaluate_certificates(
        case.sampler,
        shown.images,
        plan,
        case.folder,
        identity=case.identity,
        process=(state.process_index, state.num_processes),
        progress=progress,
        wait=state.wait_for_everyone,
    )
    pixels = float(np.median([height * width for height, width in shown.sides]))
    result: dict[str, Any] = {
        "method": case.sampler.method,
        "sigma": case.sampler.sigma if isinstance(case.sampler, Percentile) else None,
        "quantile": case.sampler.quantile,
        **summarize(rows, plan),
        "size": "own" if case.own_size else list(shown.sides[0]),
        "rounding_l2": ROUNDING * (3 * pixels) ** 0.5,
        "attacked": attacked(case.accused, shown),
        "category": shown.category,
        "folder": str(case.folder),
        "versions": versions(),
    }
    result |= {"meaning": meaning(result), "notes": list(case.notes), "warnings": above(result)}
    if state.is_main_process:
        write_text(case.folder / "rows.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))
        write_json(case.folder / "result.json", result)
    return result


def _check_reach(sampler: Sampler, shown: GivenImages, plan: CertifyPlan) -> None:
    for sides in set(shown.sides):
        check_reach(sampler, sides, plan, len(shown.images.names))


def _within_reach(sampler: Sampler, shown: GivenImages, plan: CertifyPlan) -> tuple[CertifyPlan, list[str]]:
    """The plan without the radii that the draws do not reach, and a note that says so; the least is always kept."""
    kept, reason = [min(plan.radii)], ""
    for radius in sorted(plan.radii)[1:]:
        try:
            _check_reach(sampler, shown, plan.model_copy(update={"radii": (radius,)}))
        except ConfigError as error:
            reason = reason or str(error)
        else:
            kept.append(radius)
    return plan.model_copy(update={"radii": tuple(kept)}), [reason] if reason else []


def threshold_of(accused: LoadedDetector, sampler: Sampler) -> tuple[float | None, list[str]]:
    """The threshold for smoothed scores, and what is to be said of it and of the method."""
    detector = accused.detector
    if isinstance(sampler, TwoPath):
        threshold, notes = certified_threshold(sampler.detector)
    else:
        notes = [
            "percentile was asked for: it adds a second noise, and mostly certifies less than two-path"
            if isinstance(detector, WhiteBoxAdvRAD)
            else "the score is not of the form that two-path certifies, so percentile is used"
        ]
        threshold = detector.threshold
        if threshold is not None:
            notes.append("the threshold was set for plain scores; it promises no false-alarm rate for smoothed ones")
    if threshold is None:
        notes.append("the detector has no threshold, so there are no verdicts to certify")
    return threshold, notes


def attacked(accused: LoadedDetector, shown: GivenImages) -> list[dict[str, Any]]:
    """What attacks left that changed images of the same product and size, in l2.

    Returns:
        From the model folder, by radius: ``attack``, ``eps``, ``robust_auroc``, and whether it met the very
        ``same_pictures``.
    """
    size_px = accused.detector.size_px
    if accused.home is None or set(shown.sides) != {(size_px, size_px)}:  # a length would mean something else
        return []
    found = []
    for path in sorted((accused.home / "attacks").glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            held = json.loads(path.with_name("plan.json").read_text(encoding="utf-8"))
            if result["norm"] == "l2" and result["category"] == shown.category and result["robust_auroc"] is not None:
                point = {name: result[name] for name in ("attack", "eps", "robust_auroc")}
                found.append(point | {"same_pictures": held["pictures"] == shown.images.digest})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged neighbour is no reason to withhold this result
    return sorted(found, key=lambda point: float(point["eps"]))
