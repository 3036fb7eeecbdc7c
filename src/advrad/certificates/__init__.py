"""Certificates: proofs that no perturbation within a radius changes a score or a verdict beyond a bound.

Example:
    >>> from advrad import certificates
    >>> "certify" in dir(certificates)
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = [
    "CertificationResult",
    "CertifiedPrediction",
    "CertifyOptions",
    "Percentile",
    "PredictionCertificateOptions",
    "ProvenPrediction",
    "TwoPath",
    "calibrate_robust_threshold",
    "certify",
    "certify_sequential",
    "prediction_certifier",
]

if TYPE_CHECKING:
    from advrad.certificates.options import CertifyOptions, PredictionCertificateOptions
    from advrad.certificates.pipeline import certify
    from advrad.certificates.prediction import ProvenPrediction, prediction_certifier
    from advrad.certificates.results import CertificationResult
    from advrad.certificates.sequential import CertifiedPrediction, certify_sequential
    from advrad.certificates.smoothing import Percentile
    from advrad.certificates.threshold import calibrate_robust_threshold
    from advrad.certificates.two_path import TwoPath
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "CertificationResult": "advrad.certificates.results",
            "CertifiedPrediction": "advrad.certificates.sequential",
            "CertifyOptions": "advrad.certificates.options",
            "Percentile": "advrad.certificates.smoothing",
            "PredictionCertificateOptions": "advrad.certificates.options",
            "ProvenPrediction": "advrad.certificates.prediction",
            "TwoPath": "advrad.certificates.two_path",
            "calibrate_robust_threshold": "advrad.certificates.threshold",
            "certify": "advrad.certificates.pipeline",
            "certify_sequential": "advrad.certificates.sequential",
            "prediction_certifier": "advrad.certificates.prediction",
        },
    )
