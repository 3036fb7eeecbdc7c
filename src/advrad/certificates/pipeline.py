"""Certification of a detector on test images, from the options to the stored result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from advrad.certificates.bounds_pipeline import BoundsJob, prepare_bounds, run_bounds, wants_bounds
from advrad.certificates.evaluation import CertifiedImages, CertifyPlan, check_reach, evaluate_certificates
from advrad.certificates.inputs import load_test_images
from advrad.certificates.job import Job
from advrad.certificates.options import CertifyOptions, CertifySettings, Method
from advrad.certificates.radii import DEFAULT_RADII, parse_radii
from advrad.certificates.results import CertificationResult
from advrad.certificates.smoothing import Percentile, Sampler
from advrad.certificates.summary import summarize
from advrad.certificates.threshold import certified_threshold
from advrad.certificates.two_path import TwoPath, two_path_sampler
from advrad.data.options import DataOptions
from advrad.detectors.base import AnomalyDetector, SupportsScoreBounds, SupportsTwoPath
from advrad.detectors.loading import LoadedDetector, to_loaded
from advrad.detectors.probing import depends_on_batch, probe
from advrad.detectors.saved import SavedDetector
from advrad.errors import ConfigError
from advrad.utils.output_folders import check_output
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import Norm

if TYPE_CHECKING:
    from advrad.data.labelled import DataSource


def certify(
    detector: SavedDetector | AnomalyDetector | LoadedDetector | Callable[..., Any],
    data: DataSource,
    *,
    norm: Norm | None = None,
    radii: float | str | Sequence[float | str] | None = None,
    method: Method = "auto",
    options: DataOptions = DataOptions(),
    output: str | Path | None = None,
    progress: ProgressReporter = SILENT,
    **settings: Unpack[CertifySettings],
) -> CertificationResult:
    """Certify a detector on test images: bound its score over all perturbations within a radius.

    A closed-form detector has exact bounds of its score: they hold with certainty, in linf or l2. For any other
    detector the bounds are those of the smoothed score, a quantile of the score over noise, in l2. Guarantee: with
    probability at least ``confidence``, at each radius, the bounds of all images hold together. In both cases no
    perturbation of the images leaves less than the certified AUROC. The proofs are in docs/certificates.md.

    Args:
        detector: Detector of a model folder, a loaded detector, or anything that :func:`advrad.wrap` takes.
        data: Test images: a folder (its test split), ``FILE.py:NAME`` for a datamodule in a Python file, a datamodule,
            or a pair of images in memory and labels, (n,) of 0 (normal) and 1 (anomalous). The images have one size,
            which they keep: (n, 3, h, w) or (n, h, w, 3), float in [0, 1], uint8 or uint16; or a list of such images or
            of images of Pillow.
        norm: Norm of the perturbations; None for linf where the detector has exact bounds, and l2 elsewhere.
        radii: Radius or radii to certify, for pixel values in [0, 1] of the images as given: numbers, or fractions such
            as ``"2/255"``; None for 1/255, 2/255 and 4/255 in linf, and in l2 for those of 0.1, 0.2 and 0.5 for which
            the samples suffice.
        method: ``bounds`` uses exact bounds; ``two-path`` uses the noise of an AdvRAD detector itself; ``percentile``
            adds noise to the image, for any detector; ``auto`` is the first of them that is possible.
        options: How image files are found and read.
        output: Folder for the results, from which an interrupted certification continues; needed if several processes
            share the work. None for a folder inside the model folder; a detector without one stores nothing.
        progress: Receives the number of certified images.
        settings: Further settings, see :class:`advrad.certificates.options.CertifySettings`.

    Returns:
        The certified AUROC and verdicts, and the certificate of each image.

    Raises:
        ConfigError: An argument is out of range, or a radius needs more samples.
        DataError: The data cannot be used, or images of one class are missing.
        OutputError: The folder cannot be written, or holds another run.

    Example:
        >>> import advrad, torch
        >>> images = torch.full((4, 3, 16, 16), 0.2)
        >>> images[2:, :, 4:12, 4:12] = 0.8  # anomalous: a bright square
        >>> detector = advrad.wrap(lambda x: x.mean((1, 2, 3)), deterministic=True, threshold=0.3)
        >>> result = advrad.certify(detector, (images, [0, 0, 1, 1]), radii=(0.1,), n_samples=100)
        >>> result.certified_auroc
        {0.1: 1.0}
    """
    wanted = None if radii is None else [radii] if isinstance(radii, str | int | float) else list(radii)
    if wanted == []:
        raise ConfigError("give at least one radius, or None for the default", option="radii")
    values = {
        "norm": norm,
        "radius": None if wanted is None else ",".join(map(str, wanted)),
        "method": method,
        "data": options,
    }
    loaded, asked = to_loaded(detector), CertifyOptions.parse(values | settings)
    if output is not None or loaded.folder is not None:
        return run_job(prepare(loaded, data, asked, None if output is None else Path(output)), progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        result = run_job(prepare(loaded, data, asked, Path(folder)), progress=progress)
    return result.model_copy(update={"folder": None})


@dataclass(frozen=True, eq=False)
class CertificationJob(Job):
    """A certification with noise that is ready to run.

    Attributes:
        sampler: Sampler of the detector's score.
        plan: Plan of the certification.
        identity: Identity of detector and method.
    """

    sampler: Sampler
    plan: CertifyPlan
    identity: str


def prepare(
    loaded: LoadedDetector, data: DataSource, options: CertifyOptions, folder: Path | None = None
) -> CertificationJob | BoundsJob:
    """Load the images and make the plan. Nothing is written yet, so that bad options leave nothing behind.

    Args:
        loaded: Detector.
        data: Test images.
        options: Options of the certification.
        folder: Folder for the certificates and the result; None for one inside the model folder, named by the plan.

    Returns:
        The job.

    Raises:
        UserError: An option does not fit, a radius needs more samples, or an image cannot be read.
    """
    if folder is None:
        loaded.check_folder()
    else:
        check_output(folder, "results")
    if wants_bounds(loaded.detector, options):
        return prepare_bounds(loaded, data, options, folder)
    check_confidence(options.confidence, options.n_samples)
    radii = DEFAULT_RADII["l2"] if options.radius is None else parse_radii(options.radius)
    _check_method(loaded.detector, options.method, options.sigma, max(radii))
    images = load_test_images(loaded.detector, data, options)
    sampler = sampler_for(loaded.detector, options.method, options.sigma, max(radii), images.load(0)[None])
    threshold, notes = threshold_for(loaded.detector, sampler)
    notes += images.warnings
    plan = CertifyPlan(
        radii=radii, n_samples=options.n_samples, confidence=options.confidence, threshold=threshold, seed=options.seed
    )
    if options.radius is None:
        plan, note = _reachable_plan(sampler, images, plan)
        notes += note
    # For every size: the samples may suffice for the larger images only.
    _check_all_sizes(sampler, images, plan)
    sigma = "" if sampler.sigma is None else f" {sampler.sigma}"
    identity = f"{loaded.identity} {sampler.method}{sigma}"
    depends_on: list[object] = [plan.model_dump(mode="json"), images.names, images.digest, identity]
    folder = folder or loaded.result_folder("certificates", sampler.method, depends_on)
    return CertificationJob(loaded, images, folder, tuple(notes), options.own_size, sampler, plan, identity)


def run_job(job: CertificationJob | BoundsJob, *, progress: ProgressReporter = SILENT) -> CertificationResult:
    """Run a certification and store its result.

    Args:
        job: Detector, images and plan. What an earlier run finished in its folder is kept.
        progress: Receives the number of certified images.

    Returns:
        The result, also stored in the job's folder as ``result.json`` and ``rows.jsonl``.

    Raises:
        UserError: The folder cannot be written, or holds another run; or an image cannot be read.
    """
    if isinstance(job, BoundsJob):
        return run_bounds(job, progress=progress)
    from accelerate import PartialState

    state = PartialState()
    rows = evaluate_certificates(
        job.sampler,
        job.images,
        job.plan,
        job.folder,
        identity=job.identity,
        process=(state.process_index, state.num_processes),
        progress=progress,
        wait=state.wait_for_everyone,
    )
    sampler, figures = job.sampler, summarize(rows, job.plan)
    return job.finish(
        figures,
        rows,
        method=sampler.method,
        sigma=sampler.sigma,
        quantile=sampler.quantile,
        write=state.is_main_process,
    )


def check_confidence(confidence: float, n_samples: int) -> None:
    """Check that a confidence can be reached, and that there are at least 2 noise samples.

    Raises:
        ConfigError: One is out of range.
    """
    if not 0 < confidence < 1:
        raise ConfigError(
            "must be above 0 and below 1; samples make nothing certain", option="confidence", value=confidence
        )
    if n_samples < 2:
        raise ConfigError("must be at least 2", option="n_samples", value=n_samples)


def sampler_for(
    detector: AnomalyDetector, method: Method, sigma: float | None, largest: float, example: Tensor
) -> Sampler:
    """Choose how a detector's score is certified.

    Args:
        detector: Detector.
        method: Requested method.
        sigma: Standard deviation of the noise that ``percentile`` adds; None for ``largest``.
        largest: Largest requested radius.
        example: An image, (1, c, h, w), to find out whether the detector draws noise.

    Returns:
        The sampler.

    Raises:
        ConfigError: The method does not suit the detector, or sigma does not suit the method.
        DetectorError: The detector returns no valid score.
    """
    two_path = _check_method(detector, method, sigma, largest)
    if two_path is not None:
        return two_path
    # The detector must also declare it: one probe with saturated scores would show no noise.
    deterministic = probe(detector, example).deterministic and detector.deterministic
    several = torch.cat([example, example.flip(3), example.flip(2), 1 - example])
    together = deterministic and not depends_on_batch(detector, several)
    return Percentile(detector, largest if sigma is None else sigma, together)


def _check_method(detector: AnomalyDetector, method: Method, sigma: float | None, largest: float) -> TwoPath | None:
    """Refuse a method or a sigma that does not suit the detector; no image is read. Gives its two-path sampler."""
    two_path = None if method == "percentile" else two_path_sampler(detector)
    if two_path is not None:
        if sigma is not None:
            raise ConfigError(
                "applies to method percentile; the two-path certificate uses the detector's own noise", option="sigma"
            )
        return two_path
    if method == "two-path":
        raise ConfigError(
            "certifies AdvRAD detectors only; choose method percentile for other detectors",
            option="method",
            value=method,
        )
    if sigma is None and largest == 0:
        raise ConfigError(
            "is needed if the only radius is 0; give the standard deviation of the noise added to the images",
            option="sigma",
        )
    return None


def threshold_for(detector: AnomalyDetector, sampler: Sampler) -> tuple[float | None, list[str]]:
    """Choose the threshold for smoothed scores.

    Args:
        detector: Detector.
        sampler: Sampler of its score.

    Returns:
        The threshold, None if there is none, and notes on threshold and method for the user.
    """
    if isinstance(sampler, TwoPath):
        threshold, notes = certified_threshold(sampler.detector.detector_config)
    else:
        if isinstance(detector, SupportsScoreBounds):
            notes = ["method percentile adds noise; method bounds certifies this detector without, and usually more"]
        elif isinstance(detector, SupportsTwoPath):
            notes = ["method percentile adds a second noise; it usually certifies less than two-path"]
        else:
            notes = ["two-path certifies AdvRAD detectors only, so percentile is used"]
        threshold = detector.threshold
        if threshold is not None:
            notes.append("the threshold was set for plain scores; it promises no false-alarm rate for smoothed ones")
    if threshold is None:
        notes.append("the detector has no threshold, so there are no verdicts to certify")
    return threshold, notes


def _check_all_sizes(sampler: Sampler, images: CertifiedImages, plan: CertifyPlan) -> None:
    for sides in set(images.sizes):
        check_reach(sampler, sides, plan, len(images.names))


def _reachable_plan(sampler: Sampler, images: CertifiedImages, plan: CertifyPlan) -> tuple[CertifyPlan, list[str]]:
    """The plan without the radii that need more samples, and a note about them; the smallest radius is kept."""
    kept, reason = [min(plan.radii)], ""
    for radius in sorted(plan.radii)[1:]:
        try:
            _check_all_sizes(sampler, images, plan.model_copy(update={"radii": (radius,)}))
        except ConfigError as error:
            reason = reason or str(error)
        else:
            kept.append(radius)
    return plan.model_copy(update={"radii": tuple(kept)}), [reason] if reason else []
