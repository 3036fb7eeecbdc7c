"""Detectors: the interface, wrappers for models of others, and AdvRAD itself.

Example:
    >>> from advrad import detectors
    >>> "wrap" in dir(detectors)
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = [
    "AdvRAD",
    "AdvRADOutput",
    "AnomalyDetector",
    "Calibration",
    "CallableDetector",
    "ClosedFormConfig",
    "ClosedFormDetector",
    "CombinedConfig",
    "CombinedDetector",
    "DetectorConfig",
    "DetectorOutput",
    "GuardedConfig",
    "GuardedDetector",
    "HalfReport",
    "LoadedDetector",
    "NoiseView",
    "Prediction",
    "ProbedProperties",
    "RobustCalibration",
    "SavedDetector",
    "ScoreBounds",
    "ScoreConfig",
    "SupportsScoreBounds",
    "SurrogateLoss",
    "TiledDetector",
    "Verdict",
    "WhiteBoxAdvRAD",
    "conformal_threshold",
    "load_detector",
    "load_target",
    "paper_score",
    "probe",
    "wrap",
]

if TYPE_CHECKING:
    from advrad.detectors.advrad import AdvRAD
    from advrad.detectors.base import (
        AnomalyDetector,
        DetectorOutput,
        ScoreBounds,
        SupportsScoreBounds,
        SurrogateLoss,
    )
    from advrad.detectors.callable_detector import CallableDetector
    from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector
    from advrad.detectors.combined import CombinedConfig, CombinedDetector
    from advrad.detectors.config import Calibration, DetectorConfig, RobustCalibration
    from advrad.detectors.conformal import conformal_threshold
    from advrad.detectors.guarded import GuardedDetector
    from advrad.detectors.guarded_config import GuardedConfig
    from advrad.detectors.loading import LoadedDetector, load_detector, load_target
    from advrad.detectors.outputs import AdvRADOutput, Prediction
    from advrad.detectors.probing import ProbedProperties, probe
    from advrad.detectors.saved import SavedDetector
    from advrad.detectors.score_config import NoiseView, ScoreConfig, paper_score
    from advrad.detectors.tiled import TiledDetector
    from advrad.detectors.verdicts import HalfReport, Verdict
    from advrad.detectors.white_box import WhiteBoxAdvRAD
    from advrad.detectors.wrappers import wrap
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AdvRAD": "advrad.detectors.advrad",
            "AdvRADOutput": "advrad.detectors.outputs",
            "AnomalyDetector": "advrad.detectors.base",
            "Calibration": "advrad.detectors.config",
            "CallableDetector": "advrad.detectors.callable_detector",
            "ClosedFormConfig": "advrad.detectors.closed_form",
            "ClosedFormDetector": "advrad.detectors.closed_form",
            "CombinedConfig": "advrad.detectors.combined",
            "CombinedDetector": "advrad.detectors.combined",
            "DetectorConfig": "advrad.detectors.config",
            "DetectorOutput": "advrad.detectors.base",
            "GuardedConfig": "advrad.detectors.guarded_config",
            "GuardedDetector": "advrad.detectors.guarded",
            "HalfReport": "advrad.detectors.verdicts",
            "LoadedDetector": "advrad.detectors.loading",
            "NoiseView": "advrad.detectors.score_config",
            "Prediction": "advrad.detectors.outputs",
            "ProbedProperties": "advrad.detectors.probing",
            "RobustCalibration": "advrad.detectors.config",
            "SavedDetector": "advrad.detectors.saved",
            "ScoreBounds": "advrad.detectors.base",
            "ScoreConfig": "advrad.detectors.score_config",
            "SupportsScoreBounds": "advrad.detectors.base",
            "SurrogateLoss": "advrad.detectors.base",
            "TiledDetector": "advrad.detectors.tiled",
            "Verdict": "advrad.detectors.verdicts",
            "WhiteBoxAdvRAD": "advrad.detectors.white_box",
            "conformal_threshold": "advrad.detectors.conformal",
            "load_detector": "advrad.detectors.loading",
            "load_target": "advrad.detectors.loading",
            "paper_score": "advrad.detectors.score_config",
            "probe": "advrad.detectors.probing",
            "wrap": "advrad.detectors.wrappers",
        },
    )
