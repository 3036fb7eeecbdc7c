"""The halves of a guarded detector in its model folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from advrad.detectors.config import DetectorConfig
from advrad.detectors.feature_config import FeatureConfig
from advrad.detectors.guarded_config import AttackableConfig
from advrad.detectors.guarded_halves import Half
from advrad.detectors.reference import ReferenceConfig
from advrad.errors import CheckpointError


def config_of(half: Half) -> FeatureConfig | DetectorConfig | None:
    """Configuration of a half whose tensors a model folder can hold; None for another one.

    Args:
        half: The half.
    """
    found = getattr(half.deployed, "config", None)
    return found if isinstance(found, FeatureConfig | DetectorConfig) else None


def assemble_half(part: AttackableConfig, tensors: Mapping[str, Tensor], source: str) -> Any:
    """Build a half from its configuration and its tensors.

    Args:
        part: Configuration of the half.
        tensors: Its tensors by name; none for a detector that stays in its own file.
        source: Name of the file of the configuration, for errors.

    Raises:
        CheckpointError: The tensors do not belong to the configuration, or the half was not stored.
        ConfigError: The file of the half is missing or has changed.
    """
    match part.detector:
        case FeatureConfig():
            from advrad.detectors.feature_memory import FeatureDetector

            return FeatureDetector.assemble(part.detector, tensors, source)
        case DetectorConfig():
            from advrad.detectors.advrad import AdvRAD

            return AdvRAD.assemble(part.detector, tensors, source).eval()
        case ReferenceConfig():
            from advrad.detectors.reference import load_reference

            return load_reference(part.detector)
    raise CheckpointError(f"{source}: the half {part.name!r} is not stored; save the detector again")


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors whose names have a prefix, without the prefix.

    Args:
        tensors: Tensors by name.
        prefix: Beginning of the names.
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
