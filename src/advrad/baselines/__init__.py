"""Other anomaly detectors, fitted to normal images and evaluated by the same code as AdvRAD.

Each module holds one system or one family, and names its source and the differences from it.
:mod:`advrad.baselines.registry` lists them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.baselines.base import BaselineDetector as BaselineDetector
    from advrad.baselines.base import FitContext as FitContext
    from advrad.baselines.registry import BASELINES as BASELINES
    from advrad.baselines.registry import BaselineSpec as BaselineSpec

__all__ = ["BASELINES", "BaselineDetector", "BaselineSpec", "FitContext"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "BASELINES": "advrad.baselines.registry",
        "BaselineDetector": "advrad.baselines.base",
        "BaselineSpec": "advrad.baselines.registry",
        "FitContext": "advrad.baselines.base",
    },
)
