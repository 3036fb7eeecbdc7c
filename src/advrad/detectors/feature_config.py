"""Settings of the detector on features of a network: the network, its layers, and the search of neighbours."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from advrad.data.framing import Framing
from advrad.detectors.config import Calibration, PaddedConfig, RecordedFigures, RobustCalibration, TrainingRecord
from advrad.utils.config import Config

#: Names of the networks whose weights are Python packages, by which no network connection is needed.
LITE_NAMES = ("lite0", "lite2")

Three = tuple[float, float, float]


class NetworkConfig(Config):
    """A network, trained on ImageNet, whose feature maps are compared.

    Attributes:
        kind: ``lite`` for EfficientNet-lite, which advrad builds itself; ``timm`` for a network of the library timm.
        name: ``lite0`` or ``lite2``; or a name of timm such as ``wide_resnet50_2``, or an address on the hub such as
            ``hf-hub:timm/resnet18.a1_in1k``.
        layers: Numbers of the feature maps, ascending. The stages of EfficientNet-lite are 0 to 6, at 1/2, 1/4, 1/8,
            1/16, 1/16, 1/32 and 1/32 of the image's side; those of timm are mostly 0 to 4, at 1/2 to 1/32.
        architecture: Name of the network's architecture in timm; None for EfficientNet-lite.
        arguments: Arguments with which timm builds it.
        mean: Subtracted from the values of an image, by colour.
        std: What they are divided by then, > 0.

    Example:
        >>> NetworkConfig(name="lite0", layers=(2, 4)).describe()
        'EfficientNet-lite0, layers 2 and 4'
    """

    kind: Literal["lite", "timm"] = "lite"
    name: str = "lite2"
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (2, 3)
    architecture: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    mean: Three = (0.5, 0.5, 0.5)
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        0.5,
        0.5,
        0.5,
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers must ascend, each once")
        if self.kind == "lite" and self.name not in LITE_NAMES:
            raise ValueError(f"name must be {' or '.join(LITE_NAMES)} where kind is lite")
        if self.kind == "lite" and self.layers[-1] > 6:
            raise ValueError("layers of EfficientNet-lite are 0 to 6")
        if (self.kind == "timm") != (self.architecture is not None):
            raise ValueError("architecture must be given for kind timm, and for no other")
        return self

    @model_serializer(mode="wrap")
    def _write_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if self.kind == "lite":
            del values["architecture"], values["arguments"]
        return values

    def describe(self) -> str:
        """Describe the network in a few words."""
        name = f"EfficientNet-{self.name}" if self.kind == "lite" else self.name
        *others, last = [str(layer) for layer in self.layers]
        layers = f"layers {', '.join(others)} and {last}" if others else f"layer {last}"
        return f"{name}, {layers}"


class FeatureConfig(PaddedConfig):
    """Everything about a detector on features except its tensors.

    Attributes:
        kind: Name of this kind of detector in files.
        network: The network and its layers.
        pooling: Side of the square window, in positions, over which each feature map is averaged; odd.
        neighbours: Number of nearest neighbours whose mean distance is the distance of a position, >= 1.
        smoothing: Side of the square window, in positions, over which distances are averaged; odd. The score is the
            largest mean.
        leaves_one_out: Whether a normal image can be compared with the others: then the bank holds the same positions
            of every image, and no choice of vectors depends on what the images show.
        image_size_px: Side of the square to which images are scaled, in pixels.
        pad: Whether images keep their aspect ratio, and are padded to the square.
        calibration: Threshold of the score; None if it was not set.
        robust_calibration: Threshold that keeps its false-alarm rate under attack; None if it was not set.
        training: How the detector was fitted.
        figures: Measured results, shown in the model card.

    Example:
        >>> FeatureConfig().describe()[0]
        'compares features of EfficientNet-lite2, layers 2 and 3, with those of normal images'
    """

    kind: Literal["features"] = "features"
    network: NetworkConfig = NetworkConfig()
    pooling: Annotated[int, Field(ge=1)] = 3
    neighbours: Annotated[int, Field(ge=1)] = 1
    smoothing: Annotated[int, Field(ge=1)] = 3
    leaves_one_out: bool = False
    image_size_px: Annotated[int, Field(gt=0)] = 256
    calibration: Calibration | None = None
    robust_calibration: RobustCalibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        for name in ("pooling", "smoothing"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd")
        return self

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        record = self.training
        return Framing.square(self.image_size_px, pad=self.pad, trained=record.shapes, trained_range=record.value_range)

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        count = "the nearest" if self.neighbours == 1 else f"the mean of the {self.neighbours} nearest"
        return [
            f"compares features of {self.network.describe()}, with those of normal images",
            f"the score is the largest distance to {count}, over {self.smoothing} x {self.smoothing} positions",
        ]
