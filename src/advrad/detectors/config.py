"""The settings of a detector, as a file can hold them, and the denoiser that they describe."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from advrad.denoisers.factory import DenoiserConfig
from advrad.detectors.scoring import ScoreConfig
from advrad.utils.config import Config
from advrad.utils.precision import Precision


class Calibration(Config):
    """The threshold and where it comes from.

    Attributes:
        threshold: verdict defective where score > threshold.
        false_alarm_rate: promised for normal images like those of the calibration.
        n: calibration images.
        heat_low: score-map value at which heat maps begin to glow: the median of the normal maps' maxima.
        heat_high: value that only the threshold's share of normal maps passes; outlined in heat maps.
        source: the data, the product in them, and the seed of the split.
    """

    threshold: float
    false_alarm_rate: float = Field(gt=0, lt=1)
    n: int = Field(gt=0)
    heat_low: float
    heat_high: float
    source: dict[str, Any] = Field(default_factory=dict)


class RobustCalibration(Config):
    """A threshold for the smoothed score that keeps its promise under attack, and where it comes from.

    Attributes:
        threshold: verdict anomalous where the smoothed score > threshold.
        false_alarm_rate: promised for normal images like those of the calibration, each moved by up to ``radius``.
        radius: l2, in [0, 1] pixel units of an image of the detector's own size.
        n: calibration images.
        draws: that bounded each of their scores.
        confidence: with which each of these bounds holds.
        source: the data, the product in them, and the seed of the split.
    """

    threshold: float
    false_alarm_rate: float = Field(gt=0, lt=1)
    radius: float = Field(ge=0)
    n: int = Field(gt=0)
    draws: int = Field(gt=0)
    confidence: float = Field(gt=0, lt=1)
    source: dict[str, Any] = Field(default_factory=dict)


class DetectorConfig(Config):
    """Everything about a detector but its tensors.

    Attributes:
        denoiser: kind and shape of the network.
        size_px: side of the square at which images enter; the published input size.
        score: how an image is scored.
        locations: mean normal score of each error map.
        scales: spread of each error map's normal score.
        ceilings: of each error map, see :func:`advrad.detectors.scoring.divide_by_image_mean`.
        noise_seed: of the noise that :meth:`AdvRAD.predict` uses.
        precision: arithmetic of :meth:`AdvRAD.predict`; ``auto`` is bfloat16 where the processor has it.
        calibration: None while no threshold was set.
        guarantee: the threshold of certified verdicts; None while none was set.
        training: how it was trained: the plan, the numbers of images, what was tried for the score, the versions.
        figures: measured results, shown in the model card.
    """

    denoiser: DenoiserConfig
    size_px: int = Field(gt=0)
    score: ScoreConfig
    locations: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    ceilings: tuple[float, ...] = ()
    noise_seed: int = Field(0, ge=0)
    precision: Precision = "auto"
    calibration: Calibration | None = None
    guarantee: RobustCalibration | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, Any] = Field(default_factory=dict)
