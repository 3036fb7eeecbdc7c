"""Certificates of single predictions: a verdict that holds for every image within a radius, too.

There are two kinds. A detector that bounds its scores gives **proven** verdicts, without randomness and for either
norm. AdvRAD gives **certified** verdicts on its smoothed score, for l2, each right with a given confidence.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advrad.certificates.bounds_pipeline import bounds_threshold
from advrad.certificates.evaluation import CertifyPlan
from advrad.certificates.lipschitz import ProvenVerdict, proven_verdict, verdict_radius
from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.pipeline import check_confidence
from advrad.certificates.radii import parse_radii
from advrad.certificates.sequential import certify_sequential, samples_for_verdict
from advrad.certificates.smoothing import check_n_samples
from advrad.certificates.threshold import certified_threshold
from advrad.certificates.two_path import TwoPath
from advrad.data.array_checks import check_images
from advrad.data.framing import Framing
from advrad.data.resize_norm import framed_radius
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import ScoreBounds, SupportsScoreBounds, SupportsTwoPath
from advrad.detectors.config import Calibration
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.saved import SavedDetector, takes_pixels
from advrad.detectors.wrappers import as_detector
from advrad.errors import ConfigError
from advrad.utils.formatting import reach_text
from advrad.utils.radii import Norm
from advrad.utils.seeding import generator_for

#: Radius for which a verdict should hold if none is given.
_DEFAULT_RADIUS: dict[Norm, float] = {"linf": 2 / 255, "l2": 0.2}


@dataclass(frozen=True, slots=True)
class PredictionCertificate:
    """A certified verdict on one image: it holds for every image within a radius, too.

    Attributes:
        verdict: Certified verdict: ``certified anomalous``, ``certified normal`` or ``abstain``.
        radius: Radius of the certificate, l2 for pixel values in [0, 1] of the image as given; 0 for ``abstain``.
        threshold: Threshold of the smoothed score.
        confidence: Probability that the certificate is right, at least.
        n_samples: Number of noise samples that were used; ``draws`` in JSON.
        seed: Seed of the noise, together with the file's name.
    """

    verdict: str
    radius: float
    threshold: float
    confidence: float
    n_samples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return {
            "certified": self.verdict,
            "certified_radius": self.radius,
            "certified_threshold": self.threshold,
            "confidence": self.confidence,
            "draws": self.n_samples,
            "seed": self.seed,
        }

    def __str__(self) -> str:
        return f"{self.verdict:19} radius {self.radius:6.4g}"


@dataclass(frozen=True, slots=True)
class ProvenPrediction:
    """A proven verdict on one image: it holds for every image within a radius, with certainty.

    Attributes:
        verdict: ``proven defective``, ``proven good``, or ``not proven`` if the bounds do not decide for the radius.
        norm: Norm of the perturbations.
        radius: Radius for which the verdict was asked, for pixel values in [0, 1] of the image as given.
        reach: Largest radius for which the verdict on the image is proven; 0 if for none.
        threshold: Threshold of the score.
        lower: Lower bound of the score within ``radius``.
        upper: Upper bound of the score within ``radius``.
        lower_map: Lower bound of the anomaly map within ``radius``, (h, w); not part of the JSON values.
        half: Half of a guarded detector whose verdict it is; None for a detector without halves.
        map_level: Value of ``lower_map`` that normal images rarely exceed; None for that of the calibration.

    Example:
        >>> found = ProvenPrediction("proven defective", "linf", 2 / 255, 5 / 255, threshold=0.5, lower=0.6, upper=0.9)
        >>> print(found)
        proven defective linf radius 5/255
    """

    verdict: ProvenVerdict
    norm: Norm
    radius: float
    reach: float
    threshold: float
    lower: float
    upper: float
    lower_map: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    half: str | None = None
    map_level: float | None = field(default=None, repr=False, compare=False)

    def area_level(self, calibration: Calibration) -> float:
        """Value that ``lower_map`` exceeds in a proven defect area: above the threshold, and above normal maps.

        Args:
            calibration: Calibration of the detector.
        """
        return max(self.threshold, calibration.heat_high if self.map_level is None else self.map_level)

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return {
            "certified": self.verdict,
            "certified_radius": self.reach,
            "certified_threshold": self.threshold,
            "norm": self.norm,
            "radius": self.radius,
            # JSON has no infinity, which stands for a bound that is not known.
            "lower": self.lower if math.isfinite(self.lower) else None,
            "upper": self.upper if math.isfinite(self.upper) else None,
        } | ({} if self.half is None else {"certified_half": self.half})

    def __str__(self) -> str:
        reach = reach_text(self.reach, self.norm)
        if self.half is not None:  # its verdict is told beside it
            return f"{self.half} proven to {self.norm} {reach}" if self.reach else f"{self.half} not proven"
        return f"{self.verdict:16} {self.norm} radius {reach}"


#: Certifies the verdict on an image file, from its name and the image, (3, h, w), at its own size and as it is scored.
Certifier = Callable[[str, Tensor, Tensor], PredictionCertificate | ProvenPrediction]


def prediction_certifier(
    detector: SavedDetector,
    options: PredictionCertificateOptions,
    threshold: float | None = None,
    *,
    search_reach: bool = True,
    before_each: Callable[[], object] | None = None,
) -> tuple[Certifier, list[str]]:
    """Prepare the certificates of single predictions.

    Args:
        detector: Calibrated detector.
        options: Options of the certificates.
        threshold: Threshold of the verdicts in place of the calibrated one, for a detector without halves that bounds
            its scores; None for the calibrated one.
        search_reach: Whether to search for the largest radius for which a verdict is proven. Without the search, the
            reach is the radius that was asked for, where the verdict is proven for it.
        before_each: Called before each computation of bounds; what it raises ends the certificate. None for nothing.

    Returns:
        The function that certifies an image, and warnings for the user.

    Raises:
        ConfigError: An option is out of range, or does not suit the detector.
        NotCalibratedError: The detector has no threshold.

    Example:
        Needs a model folder.

        >>> detector = advrad.load_detector("bottle")  # doctest: +SKIP
        >>> certifier, _ = prediction_certifier(detector, PredictionCertificateOptions(norm="linf"))  # doctest: +SKIP
        >>> for prediction in predict_paths(detector, paths, certifier=certifier):  # doctest: +SKIP
        ...     print(prediction.certificate)
        proven good      linf radius 3.5/255
    """
    if takes_pixels(detector):
        raise ConfigError("an export computes no bounds; certify with the model folder", option="certify")
    target = as_detector(detector)
    if isinstance(target, SupportsScoreBounds):
        norm: Norm = options.norm or "linf"
        radius = _radius_of(options, norm)
        if isinstance(target, GuardedDetector):
            _refuse_threshold(threshold)
            proving = _Proving.of_memory(target, norm, radius)
            return replace(proving, search_reach=search_reach, before_each=before_each), _exact(options)
        if threshold is not None:
            proving = _Proving(target, detector.config.framing, norm, radius, threshold)
            return replace(proving, search_reach=search_reach, before_each=before_each), _exact(options)
        threshold, warnings = bounds_threshold(target, norm, (radius,))
        warnings += _exact(options)
        if threshold is None:
            threshold = detector.calibration.threshold  # raises the error of a detector without a threshold
        proving = _Proving(target, detector.config.framing, norm, radius, threshold)
        return replace(proving, search_reach=search_reach, before_each=before_each), warnings
    _refuse_threshold(threshold)
    if options.norm == "linf":
        raise ConfigError(
            "needs exact bounds of the score, which a closed-form detector has; this detector has none, so choose l2",
            option="norm",
            value=options.norm,
        )
    if not isinstance(target, SupportsTwoPath):
        raise ConfigError("this detector cannot be certified; use a closed-form detector or AdvRAD", option="certify")
    plan, warnings = prediction_certificate_plan(target.reconstruction_model, options)
    return _Sampling(TwoPath(target.reconstruction_model), plan), warnings


def _refuse_threshold(threshold: float | None) -> None:
    """Refuse a threshold where the certificates are about another score, or about several."""
    if threshold is not None:
        raise ConfigError(
            "cannot replace the calibrated one in certificates of this detector; leave it out, or calibrate",
            option="threshold",
            value=threshold,
        )


def _exact(options: PredictionCertificateOptions) -> list[str]:
    """A warning about options that bounds without randomness do not need."""
    given = options.model_fields_set & {"n_samples", "confidence", "seed"}
    return ["the bounds are exact: nothing is drawn, and no confidence is needed"] if given else []


def prediction_certificate_plan(
    detector: AdvRAD, options: PredictionCertificateOptions
) -> tuple[CertifyPlan, list[str]]:
    """Plan the certificates of single predictions by AdvRAD.

    Args:
        detector: Detector.
        options: Options of the certificates.

    Returns:
        The plan, with one radius and a threshold, and warnings for the user.

    Raises:
        ConfigError: An option is out of range.
        NotCalibratedError: The detector has no threshold.
    """
    radius = _radius_of(options, "l2")
    check_confidence(options.confidence, options.n_samples)
    threshold, warnings = certified_threshold(detector.detector_config)
    robust = detector.detector_config.robust_calibration
    if robust is not None and robust.confidence is not None and options.confidence < robust.confidence:
        warnings.append(
            f"confidence {options.confidence:g}: the false-alarm rate of certified verdicts is promised for"
            f" {robust.confidence:g} or more"
        )
    plan = CertifyPlan(
        radii=(radius,),
        n_samples=options.n_samples,
        confidence=options.confidence,
        threshold=detector.calibration.threshold if threshold is None else threshold,
        seed=secrets.randbits(53) if options.seed is None else options.seed,
    )
    return plan, warnings


def _radius_of(options: PredictionCertificateOptions, norm: Norm) -> float:
    """The radius for which the verdicts should hold."""
    if options.radius is None:
        return _DEFAULT_RADIUS[norm]
    radii = parse_radii(options.radius, norm)
    if len(radii) > 1:
        raise ConfigError("holds several radii; give one", option="radius", value=options.radius)
    return radii[0]


@dataclass(frozen=True)
class _Sampling:
    """Certifies images with noise samples.

    Attributes:
        sampler: Sampler of the detector's score.
        plan: Plan with one radius and a threshold.
    """

    sampler: TwoPath
    plan: CertifyPlan

    def __call__(self, name: str, image: Tensor, scored: Tensor) -> PredictionCertificate:
        """Certify the verdict on an image file."""
        image = check_images(image[None])[0]
        plan, sampler = self.plan, self.sampler
        if plan.threshold is None:
            raise ConfigError("the plan has no threshold; calibrate the detector", option="certify")
        (radius,) = plan.radii
        needed = samples_for_verdict(sampler, image.shape[1:], radius, plan.alpha)
        check_n_samples(plan.n_samples, needed, radius, plan.confidence, sampler)
        generator = generator_for(plan.seed, name)
        found = certify_sequential(sampler, image, radius, plan.threshold, plan.n_samples, plan.alpha, generator)
        return PredictionCertificate(
            found.verdict, found.radius, plan.threshold, plan.confidence, found.n_samples, plan.seed
        )


@dataclass(frozen=True)
class _Proving:
    """Proves verdicts from the bounds of the score.

    A file is scaled before it is scored. Its pixels may change by the radius as they are in the file, so the bounds are
    taken at the radius that this becomes by scaling: the same in linf, because the weights of scaling are at least 0
    and sum to 1, and the operator norm of scaling times the radius in l2; widened by what rounding can change.

    Attributes:
        detector: Detector that bounds its scores.
        framing: How a file becomes the image that is scored.
        norm: Norm of the perturbations.
        radius: Radius for which the verdict is asked.
        threshold: Threshold of the score.
        half: Half of a guarded detector that ``detector`` is; None for a detector without halves.
        map_level: Value of the map that normal images rarely exceed; None for that of the calibration.
        search_reach: Whether to search for the largest radius for which the verdict is proven.
        before_each: Called before each computation of bounds; None for nothing.
    """

    detector: SupportsScoreBounds
    framing: Framing
    norm: Norm
    radius: float
    threshold: float
    half: str | None = None
    map_level: float | None = None
    search_reach: bool = True
    before_each: Callable[[], object] | None = None

    @classmethod
    def of_memory(cls, detector: GuardedDetector, norm: Norm, radius: float) -> _Proving:
        """Prove the verdicts of a guarded detector's memory: those of its other halves cannot be proven."""
        test = detector.tests[0]
        return cls(
            detector.memory,
            detector.config.framing,
            norm,
            radius,
            test.threshold,
            half=detector.config.names[0],
            map_level=test.heat_high,
        )

    def __call__(self, name: str, image: Tensor, scored: Tensor) -> ProvenPrediction:
        """Prove the verdict on an image file."""
        check_images(scored[None])
        scaled = _Scaled(self.detector, (image.shape[1], image.shape[2]), self.framing, self.before_each)
        bounds = scaled.score_bounds(scored[None], self.radius, self.norm)
        lower, upper = float(bounds.lower), float(bounds.upper)
        verdict = proven_verdict(lower, upper, self.threshold)
        known = {0.0: (float(bounds.scores), float(bounds.scores)), self.radius: (lower, upper)}
        if self.search_reach:
            reach = verdict_radius(scaled, scored, self.threshold, self.norm, known)
        else:
            reach = 0.0 if verdict == "not proven" else self.radius
        lower_map = bounds.lower_map[0, 0].detach().float().cpu().numpy()
        return ProvenPrediction(
            verdict,
            self.norm,
            self.radius,
            reach,
            self.threshold,
            lower,
            upper,
            lower_map,
            self.half,
            self.map_level,
        )


@dataclass(frozen=True)
class _Scaled:
    """Bounds of a detector's scores for radii at the size of the file.

    Attributes:
        detector: Detector that bounds its scores.
        sides_px: Height and width of the file.
        framing: How it becomes the image that is scored.
        before_each: Called before each computation; None for nothing.
    """

    detector: SupportsScoreBounds
    sides_px: tuple[int, int]
    framing: Framing
    before_each: Callable[[], object] | None = None

    def score_bounds(self, images: Tensor, radius: float, norm: Norm) -> ScoreBounds:
        """Bound the scores of scaled images, see :class:`SupportsScoreBounds`."""
        if self.before_each is not None:
            self.before_each()
        radius = framed_radius(*self.sides_px, self.framing, radius, norm, read=True)
        return self.detector.score_bounds(images, radius, norm)
