"""Watches for drift: scores and statistics of images against those of the calibration.

A sequential test with a proven rate of false alarms over the whole run says when camera, light or product changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = ["Change", "Direction", "DriftAlarm", "DriftMonitor", "DriftSettings", "ShiftTest", "Statistic"]

if TYPE_CHECKING:
    from advrad.serving.drift.alarms import DriftAlarm, Statistic
    from advrad.serving.drift.monitor import DriftMonitor
    from advrad.serving.drift.product_watch import DriftSettings
    from advrad.serving.drift.sequential import Change, Direction, ShiftTest
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "Change": "advrad.serving.drift.sequential",
            "Direction": "advrad.serving.drift.sequential",
            "DriftAlarm": "advrad.serving.drift.alarms",
            "DriftMonitor": "advrad.serving.drift.monitor",
            "DriftSettings": "advrad.serving.drift.product_watch",
            "ShiftTest": "advrad.serving.drift.sequential",
            "Statistic": "advrad.serving.drift.alarms",
        },
    )
