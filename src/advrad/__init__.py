"""Industrial anomaly detection that withstands adversarial attacks, with proofs: closed form and diffusion models.

Importing the package is quick: the detector, and PyTorch with it, is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.errors import (
    AdvradError,
    CheckpointError,
    ConfigError,
    DataError,
    DetectorError,
    EngineError,
    ExportError,
    ImageError,
    ImageWarning,
    NotCalibratedError,
    OutputError,
    TrainingDivergedError,
    UserError,
)
from advrad.utils.forking import prepare as _prepare_forks
from advrad.utils.lazy import attach

__version__ = "0.1.0"

_prepare_forks()

__all__ = [
    "AdvRAD",
    "AdvradError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DetectorError",
    "EngineError",
    "ExportError",
    "ImageError",
    "ImageWarning",
    "NotCalibratedError",
    "OutputError",
    "TrainingDivergedError",
    "UserError",
    "__version__",
    "attack",
    "certify",
    "evaluate",
    "export",
    "guard",
    "load_detector",
    "train",
    "wrap",
]

if TYPE_CHECKING:
    from advrad.attacks.pipeline import attack
    from advrad.certificates.pipeline import certify
    from advrad.detectors.advrad import AdvRAD
    from advrad.detectors.guard import guard
    from advrad.detectors.loading import load_detector
    from advrad.detectors.wrappers import wrap
    from advrad.exporting.run import export
    from advrad.inference.evaluation import evaluate
    from advrad.training.run import train
else:
    # Hidden from type checkers, which would otherwise accept every name.
    __getattr__, _ = attach(
        __name__,
        {
            "AdvRAD": "advrad.detectors.advrad",
            "attack": "advrad.attacks.pipeline",
            "certify": "advrad.certificates.pipeline",
            "evaluate": "advrad.inference.evaluation",
            "export": "advrad.exporting.run",
            "guard": "advrad.detectors.guard",
            "load_detector": "advrad.detectors.loading",
            "train": "advrad.training.run",
            "wrap": "advrad.detectors.wrappers",
        },
    )


def __dir__() -> list[str]:
    return sorted(__all__)
