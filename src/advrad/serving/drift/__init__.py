"""Watches for drift: scores and statistics of images against those of the calibration.

A sequential test with a proven rate of false alarms over the whole run says when camera, light or product changed.
"""

from advrad.serving.drift.alarms import DriftAlarm, Statistic
from advrad.serving.drift.monitor import DriftMonitor
from advrad.serving.drift.product_watch import DriftSettings
from advrad.serving.drift.sequential import Change, Direction, ShiftTest

__all__ = ["Change", "Direction", "DriftAlarm", "DriftMonitor", "DriftSettings", "ShiftTest", "Statistic"]
