"""Plans for the certificates of single predictions."""

from __future__ import annotations

import secrets

from advrad.certificates.evaluation import CertifyPlan
from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.pipeline import check_confidence
from advrad.certificates.smoothing import check_radius
from advrad.certificates.threshold import certified_threshold
from advrad.detectors.advrad import AdvRAD


def prediction_certificate_plan(
    detector: AdvRAD, options: PredictionCertificateOptions
) -> tuple[CertifyPlan, list[str]]:
    """Plan the certificates of single predictions.

    Args:
        detector: Detector.
        options: Options of the certificates.

    Returns:
        The plan, with one radius and a threshold, and warnings for the user.

    Raises:
        ConfigError: An option is out of range.
        NotCalibratedError: The detector has no threshold.
    """
    check_radius(options.radius)
    check_confidence(options.confidence, options.n_samples)
    threshold, warnings = certified_threshold(detector.detector_config)
    robust = detector.detector_config.robust_calibration
    if robust is not None and options.confidence < robust.confidence:
        warnings.append(
            f"confidence {options.confidence:g}: the false-alarm rate of certified verdicts is promised for"
            f" {robust.confidence:g} or more"
        )
    plan = CertifyPlan(
        radii=(options.radius,),
        n_samples=options.n_samples,
        confidence=options.confidence,
        threshold=detector.calibration.threshold if threshold is None else threshold,
        seed=secrets.randbits(53) if options.seed is None else options.seed,
    )
    return plan, warnings
