"""Training of detectors, the choice of their score, and their thresholds.

Example:
    >>> from advrad import training
    >>> training.RunOptions(steps=100).false_alarm_rate
    0.05
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = [
    "CalibrateOptions",
    "RunOptions",
    "RunPlan",
    "ScoreObjective",
    "TrainConfig",
    "Trainer",
    "View",
    "calibrate",
    "fit_closed_form",
    "fit_memory_denoiser",
    "fit_statistics",
    "select_score",
    "train",
]

if TYPE_CHECKING:
    from advrad.training.batches import TrainConfig, View
    from advrad.training.closed_form import fit_closed_form
    from advrad.training.error_statistics import fit_statistics
    from advrad.training.memory_denoiser import fit_memory_denoiser
    from advrad.training.options import CalibrateOptions, RunOptions
    from advrad.training.plan import RunPlan
    from advrad.training.recalibrate import calibrate
    from advrad.training.run import train
    from advrad.training.score_candidates import ScoreObjective
    from advrad.training.score_selection import select_score
    from advrad.training.trainer import Trainer
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "CalibrateOptions": "advrad.training.options",
            "RunOptions": "advrad.training.options",
            "RunPlan": "advrad.training.plan",
            "ScoreObjective": "advrad.training.score_candidates",
            "TrainConfig": "advrad.training.batches",
            "Trainer": "advrad.training.trainer",
            "View": "advrad.training.batches",
            "calibrate": "advrad.training.recalibrate",
            "fit_closed_form": "advrad.training.closed_form",
            "fit_memory_denoiser": "advrad.training.memory_denoiser",
            "fit_statistics": "advrad.training.error_statistics",
            "select_score": "advrad.training.score_selection",
            "train": "advrad.training.run",
        },
    )
