"""Utilities that every part of advrad uses: configurations, files, progress, seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = ["SILENT", "CallbackReporter", "Config", "ProgressReporter", "SilentReporter", "TrainingState"]

if TYPE_CHECKING:
    from advrad.utils.config import Config
    from advrad.utils.progress import SILENT, CallbackReporter, ProgressReporter, SilentReporter, TrainingState
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "SILENT": "advrad.utils.progress",
            "CallbackReporter": "advrad.utils.progress",
            "Config": "advrad.utils.config",
            "ProgressReporter": "advrad.utils.progress",
            "SilentReporter": "advrad.utils.progress",
            "TrainingState": "advrad.utils.progress",
        },
    )
