"""Give a saved detector a threshold for certified verdicts."""

from __future__ import annotations

from pathlib import Path

from advrad.detectors.config import RobustCalibration
from advrad.detectors.loading import load_detector


def set_robust_threshold(folder: Path, threshold: float) -> None:
    held = load_detector(folder)
    calibration = RobustCalibration(
        threshold=threshold, false_alarm_rate=0.1, radius=0.1, n=19, n_samples=64, confidence=0.999
    )
    held.update_config(robust_calibration=calibration)
    held.save_pretrained(folder)
