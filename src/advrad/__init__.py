"""Industrial anomaly detection by diffusion reconstruction, built to withstand adversarial attacks.

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
    ImageError,
    NotCalibratedError,
    OutputError,
    TrainingDivergedError,
    UserError,
)

__version__ = "0.1.0"

__all__ = [
    "AdvRAD",
    "AdvradError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DetectorError",
    "ImageError",
    "NotCalibratedError",
    "OutputError",
    "TrainingDivergedError",
    "UserError",
    "__version__",
    "wrap",
]

if TYPE_CHECKING:
    from advrad.detectors.advrad import AdvRAD
    from advrad.detectors.wrappers import wrap
else:
    # Hidden from type checkers, which would otherwise believe that every name exists.
    _LAZY = {"AdvRAD": "advrad.detectors.advrad", "wrap": "advrad.detectors.wrappers"}

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module 'advrad' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
