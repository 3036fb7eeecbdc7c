"""Attacks on an exported detector: by queries of its scores, or with images that were made on the PyTorch model.

An export has no gradients, so the gradient attacks of the suite say nothing about it: they would fail, however weak the
detector is. What they find on the PyTorch model is replayed on the export instead (``transfer``), as 8-bit images, as a
file or a camera would give them. The robustness of the PyTorch model itself is reported beside that of the export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from advrad.detectors.exported import ExportedDetector
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from advrad.detectors.base import AnomalyDetector

#: Attacks that follow no gradient of the detector itself.
POSSIBLE = ("square", "transfer")
#: What the figures of such an attack mean.
NOTE = (
    "an export has no gradients: this shows what queries of scores or images made on another detector reach, not how"
    " robust the detector is; attack the model folder for that"
)
#: Steps of 1/255 by which a change may miss a whole step through rounding.
_SLACK = 1e-3


def check_attack(detector: AnomalyDetector, attack: str) -> None:
    """Refuse an attack that follows gradients of an export.

    Args:
        detector: Detector that is attacked.
        attack: Name of the attack.

    Raises:
        ConfigError: The detector is an export, and the attack needs its gradients.
    """
    if isinstance(detector, ExportedDetector) and attack not in POSSIBLE:
        raise ConfigError(
            "needs gradients, which an export has not; choose square, which needs scores only, or transfer, which"
            " attacks the PyTorch model and replays its images here",
            option="attack",
            value=attack,
        )


def check_source(source: AnomalyDetector) -> None:
    """Refuse a source of transferred images that has no gradients.

    Args:
        source: Detector on which the images are made.

    Raises:
        ConfigError: It is an export.
    """
    if isinstance(source, ExportedDetector):
        raise ConfigError("is an export, which has no gradients; give the model folder", option="source")


def in_8_bits(images: Tensor) -> Tensor:
    """Round images to 8 bits, as files hold them.

    Args:
        images: Images, (b, 3, h, w), float in [0, 1].

    Example:
        >>> import torch
        >>> in_8_bits(torch.tensor([0.5])).mul(255).round(decimals=3).item()
        128.0
    """
    return (images * 255).round() / 255


def changed_in_8_bits(candidates: Tensor, images: Tensor) -> Tensor:
    """Round changed images to 8 bits, towards the images as given: so no change leaves the radius.

    Args:
        candidates: Changed images, (b, 3, h, w), in [0, 1].
        images: Images as given, (b, 3, h, w), of 8 bits.

    Example:
        >>> import torch
        >>> given = torch.tensor([100 / 255])
        >>> (changed_in_8_bits(given + torch.tensor([1.9 / 255, -2 / 255]), given) * 255).round().tolist()
        [101.0, 98.0]
    """
    steps = (candidates - images) * 255
    return (images * 255 + (steps + _SLACK * steps.sign()).trunc()).round().clamp(0, 255) / 255


def is_original(detector: AnomalyDetector, source: AnomalyDetector) -> bool:
    """Whether an export was made from a detector, or from one of the same training with another threshold.

    Args:
        detector: Detector that is attacked.
        source: Detector on which images are made.
    """
    config = getattr(getattr(source, "detector", source), "config", None)
    if not isinstance(detector, ExportedDetector) or config is None:
        return False
    ours = detector.config
    return bool(
        getattr(config, "kind", "") == ours.source_kind and config.training.to_dict() == ours.training.to_dict()
    )
