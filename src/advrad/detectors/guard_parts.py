"""The closed form and the detectors that :func:`advrad.guard` is given, and whether they belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import Calibration, TrainingRecord
from advrad.detectors.guarded_config import RESERVED
from advrad.detectors.guarded_halves import Half
from advrad.detectors.reference import ReferenceConfig
from advrad.detectors.saved import framing_of, seen_by
from advrad.errors import ConfigError

#: Names of halves of advrad, by kind of detector.
_NAMES = {"features": "features", "advrad": "learned", "combined": "combined", "closed_form": "closed form"}
#: Names of classes and functions that tell nothing.
_CALLABLES = frozenset({"function", "CallableDetector"})
#: Name of a half that has none of its own.
_NAMELESS = "detector"


@dataclass(frozen=True)
class GivenHalf:
    """A half that was given.

    Attributes:
        half: The half.
        config: Where it is stored; None for one that is not, or that says so itself.
    """

    half: Half
    config: ReferenceConfig | None = None

    @property
    def found(self) -> Any:
        """The detector as it was saved, or in its form for attacks."""
        return self.half.deployed or self.half.detector

    @property
    def calibration(self) -> Calibration | None:
        """Its own threshold."""
        found = getattr(getattr(self.found, "config", None), "calibration", None)
        return found if isinstance(found, Calibration) else None


def read_memory(memory: object) -> ClosedFormDetector:
    """Read the closed form, which must have a threshold and its calibration scores.

    Args:
        memory: The detector, or the path of its model folder.

    Raises:
        CheckpointError: The folder cannot be read.
        ConfigError: It is another kind of detector, or has no threshold.
    """
    if isinstance(memory, str | Path):
        from advrad.detectors.loading import load_detector

        memory = load_detector(memory)
    if not isinstance(memory, ClosedFormDetector):
        kind = getattr(getattr(memory, "config", None), "kind", None)
        if kind == "tiled":
            raise ConfigError("cuts images into tiles, which cannot guard yet; fit one without tiles", option="memory")
        raise ConfigError(
            f"must be a closed-form detector, trained without a learned denoiser; got {type(memory).__name__}",
            option="memory",
        )
    calibration = memory.config.calibration
    if calibration is None:
        raise ConfigError("has no threshold; fit it on more normal images, or calibrate it", option="memory")
    if not calibration.scores:
        raise ConfigError(
            "keeps no calibration scores, because an earlier version made it; calibrate it again", option="memory"
        )
    return memory


def read_halves(detector: Any, memory: ClosedFormDetector, name: str | None) -> list[GivenHalf]:
    """Read the detectors that are given, as :func:`advrad.guard` takes them.

    Args:
        detector: One detector, or several by name.
        memory: The closed form.
        name: Name of a single detector; None for one that fits.

    Raises:
        CheckpointError: A model folder cannot be read.
        ConfigError: One is no detector, or cannot be guarded.
    """
    if not isinstance(detector, Mapping):
        return [_read_half(detector, memory, name)]
    if name is not None:
        raise ConfigError("cannot be given with several detectors, which have names", option="name", value=name)
    if not detector:
        raise ConfigError("must be one at least", option="detector")
    return [_read_half(part, memory, str(key)) for key, part in detector.items()]


def _read_half(detector: Any, memory: ClosedFormDetector, name: str | None) -> GivenHalf:
    stored = None
    if isinstance(detector, str | Path):
        from advrad.detectors.loading import load_detector
        from advrad.detectors.reference import is_reference, refer

        if is_reference(str(detector)):
            stored, detector = refer(detector, size_px=memory.image_size_px)
            name = name or _first_usable(stored.name, stored.path.stem)
        else:
            detector = load_detector(detector)
    kind = getattr(getattr(detector, "config", None), "kind", None)
    if kind in ("guarded", "tiled"):
        what = "is guarded already" if kind == "guarded" else "cuts images into tiles, which the closed form does not"
        raise ConfigError(f"{what}; give another detector", option="detector")
    return GivenHalf(Half(name or _name_of(detector, kind), detector), stored)


def _name_of(detector: Any, kind: object) -> str:
    """A name for a half: what advrad calls its kind, or the name of the function or class."""
    if isinstance(kind, str) and kind in _NAMES:
        return _NAMES[kind]
    found = getattr(detector, "call", detector)  # a wrapped callable
    name = getattr(found, "__name__", type(found).__name__)
    return _first_usable(name.lower() if name.isidentifier() and name not in _CALLABLES else "")


def _first_usable(*names: str) -> str:
    """The first of these that may name a half; a word that fits any detector if none may."""
    usable = (name[:64] for name in names if name and name not in RESERVED and ":" not in name)
    return next(usable, _NAMELESS)


def check_pair(part: GivenHalf, memory: ClosedFormDetector) -> None:
    """Refuse a detector that does not see what the memory sees.

    Args:
        part: The detector.
        memory: The closed form.

    Raises:
        ConfigError: It was made from other images, or takes images of another size or shape.
    """
    name = part.half.name
    part.half.check_size(memory.image_size_px)
    framing, wanted = framing_of(part.found), memory.framing
    if framing is not None and framing.pad != wanted.pad:
        ways = ("stretches", "pads")
        raise ConfigError(
            f"{name}: {ways[framing.pad]} images to its square, and the memory {ways[wanted.pad]} them; train both with"
            " the same shape"
        )
    theirs, ours = set(seen_by(part.found)), set(seen_by(memory))
    if theirs and ours and not theirs & ours:
        raise ConfigError(
            f"{name}: was made from other images than the memory, none of them the same; train both on one folder"
        )


def training_of(memory: ClosedFormDetector, parts: Sequence[GivenHalf]) -> TrainingRecord:
    """The record of the memory's fit, with the images that any half has seen.

    Args:
        memory: The closed form.
        parts: The other halves.
    """
    seen = {one for found in (memory, *(part.found for part in parts)) for one in seen_by(found)}
    return memory.config.training.model_copy(update={"seen": tuple(sorted(seen))} if seen else {})
