"""Settings of a guarded detector: its memory, its other halves, their tests, and how they are joined."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from advrad.data.framing import Framing
from advrad.detectors.closed_form_config import ClosedFormConfig
from advrad.detectors.config import (
    Calibration,
    DetectorConfig,
    RecordedFigures,
    RobustCalibration,
    TrainingRecord,
)
from advrad.detectors.feature_config import FeatureConfig
from advrad.detectors.reference import ReferenceConfig
from advrad.errors import CheckpointError
from advrad.utils.config import Config
from advrad.utils.formatting import radius_text

#: Name of the provable half.
MEMORY = "memory"
#: Names that mean a loss of every detector to an attack, or of every guarded one; no half may have them.
RESERVED = frozenset({MEMORY, "verdict", "score", "maximum", "logsumexp", "top", "sum", "in turn", "all halves"})
#: Width of the bend below the ceiling, in surprise.
BEND = 0.1
#: Radius within which verdicts are proven, linf.
RADIUS = 2 / 255


def _kind_of(value: Any) -> str:
    """Kind of a half, given as a configuration or as JSON values; AdvRAD writes none."""
    found = value.get("kind", "advrad") if isinstance(value, dict) else getattr(value, "kind", "")
    return str(found)


#: Kinds of halves that an attack may fool, as a model folder can hold them.
HALF_KINDS = ("features", "advrad", "reference")
HalfConfig = Annotated[
    Annotated[FeatureConfig, Tag("features")]
    | Annotated[DetectorConfig, Tag("advrad")]
    | Annotated[ReferenceConfig, Tag("reference")],
    Discriminator(_kind_of),
]


class HalfTest(Config):
    """The conformal test of one half, and how its score and its map are compared with those of the others.

    Attributes:
        threshold: The half calls an image defective where its score exceeds this.
        false_alarm_rate: Highest probability with which a normal image exceeds it; under the better split, with which
            it does so and the memory does not.
        n: Number of calibration images.
        scores: Calibration scores that count, rising; fewer than n under the better split.
        slope: By how much its surprise, ``(score - threshold) * slope``, rises with its score, > 0.
        heat_low: Value of its map at which heat maps start to glow.
        heat_high: Value of its map that normal images rarely exceed.

    Example:
        >>> test = HalfTest(threshold=2.0, false_alarm_rate=0.25, n=3, scores=(0.0, 1.0, 2.0), slope=0.7)
        >>> test.heat_low, test.heat_high
        (0.0, 1.0)
    """

    threshold: float
    false_alarm_rate: float = Field(gt=0, lt=1)
    n: int = Field(gt=0)
    scores: tuple[float, ...] = ()
    slope: float = Field(gt=0)
    heat_low: float = 0.0
    heat_high: float = 1.0

    @property
    def slots(self) -> int:
        """Number of calibration images that may exceed the threshold, the image that sets it included."""
        return round(self.false_alarm_rate * (self.n + 1))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heat_high <= self.heat_low:
            raise ValueError("heat_high must be above heat_low")
        if len(self.scores) > self.n or list(self.scores) != sorted(self.scores):
            raise ValueError("scores must rise, and be at most n")
        return self


class AttackableConfig(Config):
    """A half that an attack may fool.

    Attributes:
        name: Name of the half in verdicts, reports and surrogate losses.
        detector: Configuration of its detector; None for one that exists in this process only, and cannot be saved.

    Example:
        >>> AttackableConfig(name="patchcore", detector=FeatureConfig()).describe()[0]
        'patchcore: compares features of EfficientNet-lite2, layers 2 and 3, with those of normal images'
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    detector: HalfConfig | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in RESERVED or ":" in name:
            raise ValueError("cannot be the name of a half; choose another word, without a colon")
        return name

    def describe(self) -> list[str]:
        """Describe the half in plain lines."""
        lines = ["a detector of this process"] if self.detector is None else self.detector.describe()
        return [f"{self.name}: {line}" for line in lines]


class GuardedConfig(Config):
    """Everything about a guarded detector except its tensors.

    Attributes:
        kind: Name of this kind of detector in files.
        memory: Configuration of the closed form, whose verdicts can be proven.
        others: The halves that an attack may fool.
        tests: The tests, that of the memory first; empty if they were not set.
        ceiling: Largest surprise of the other halves that counts in the score: any number but one between 0 and
            :data:`BEND`. Verdicts do not depend on it.
        radius: Radius within which verdicts are proven, linf, in [0, 1] pixel units; 0 to prove nothing, which is
            quicker.
        joint: Whether the other halves' scores of images on which the memory speaks do not count in their tests.
        calibration: Threshold of the score, 0, and the false-alarm rate of all tests together; None without tests.
        robust_calibration: Threshold that keeps its false-alarm rate under attack; None if it was not set.
        training: How the detector was fitted.
        figures: Measured results, shown in the model card.
    """

    kind: Literal["guarded"] = "guarded"
    memory: ClosedFormConfig
    others: Annotated[tuple[AttackableConfig, ...], Field(min_length=1)]
    tests: tuple[HalfTest, ...] = ()
    ceiling: float = 0.0
    radius: float = Field(RADIUS, ge=0)
    joint: bool = False
    calibration: Calibration | None = None
    robust_calibration: RobustCalibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [part.name for part in self.others]
        if len(set(names)) < len(names):
            raise ValueError("others: every half needs a name of its own")
        if self.tests and len(self.tests) != 1 + len(names):
            raise ValueError(f"tests: must be {1 + len(names)}, one for each half, that of the memory first")
        if 0 < self.ceiling < BEND:
            raise ValueError(f"ceiling must not lie between 0 and {BEND:g}")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any], source: str | None = None) -> Self:
        """Validate values, see :meth:`advrad.utils.config.Config.parse`.

        Args:
            values: Plain JSON values.
            source: Name of the file that the values come from, for the error.

        Raises:
            CheckpointError: A half is of a kind that this version does not know.
            ConfigError: A key is unknown or missing, or a value is out of range.
        """
        others = values.get("others")
        for part in others if isinstance(others, list | tuple) else ():
            detector = part.get("detector") if isinstance(part, dict) else None
            if detector is not None and _kind_of(detector) not in HALF_KINDS:
                raise CheckpointError(
                    f"{source or 'others'}: holds a half of kind {_kind_of(detector)!r}, which this advrad does not"
                    " know; install a newer advrad"
                )
        return super().parse(values, source)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all halves, that of the memory first."""
        return (MEMORY, *(part.name for part in self.others))

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels."""
        return self.memory.image_size_px

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        return self.memory.framing

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        proof = f"; its verdicts are proven within {radius_text(self.radius, 'linf')}" if self.radius else ""
        return [
            "defective if the memory or another half says so" + proof,
            *(f"{MEMORY}: {line}" for line in self.memory.describe()),
            *(line for part in self.others for line in part.describe()),
            f"the score is the largest surprise; that of the other halves counts up to {self.ceiling:.3g}",
        ]
