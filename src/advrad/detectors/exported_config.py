"""What ``detector.json`` of an export says: everything about an exported detector except its graph."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from advrad.data.framing import Framing
from advrad.detectors.config import Calibration, RecordedFigures, TrainingRecord
from advrad.detectors.guarded_config import GuardedConfig, HalfTest
from advrad.utils.config import Config

#: Runtimes that compute an export, and the file that each reads.
EngineName = Literal["openvino", "onnxruntime"]
ExportPrecision = Literal["float32", "bfloat16", "int8"]

#: Names of the graph's input and outputs, in their order. Guarded detectors have the last one, too.
INPUT = "image"
OUTPUTS = ("score", "anomaly_map", "defective", "half_scores")


class FramingRecord(Config):
    """How image files become working images inside the graph.

    Attributes:
        height_px: Height of the working image.
        width_px: Width of the working image.
        pad: Whether an image keeps its aspect ratio and is padded; otherwise it is stretched to the working size.
        tile_px: Side of the square tiles into which the working image is cut; None if it is not cut.

    Example:
        >>> FramingRecord.of(Framing.square(256)).height_px
        256
    """

    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    pad: bool = False
    tile_px: int | None = None

    @classmethod
    def of(cls, framing: Framing) -> Self:
        """Describe a framing.

        Args:
            framing: How images become working images.
        """
        return cls(height_px=framing.height_px, width_px=framing.width_px, pad=framing.pad, tile_px=framing.tile_px)


class PortRecord(Config):
    """An input or an output of the graph.

    Attributes:
        name: Its name.
        type: Type of its values, such as ``uint8``.
        shape: Its sides; None for one that may have any length.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]


class ProvenanceRecord(Config):
    """Where an export comes from.

    Attributes:
        config_sha256: Identity of the source, as :func:`advrad.detectors.loading.load_target` computes it.
        weights_sha256: Digest of the tensors of the source, from its ``config.json``.
        data: Name of the data set of the source; no path.
        fitted_on: Date on which the source was fitted, as ``2026-01-31``; None if it is not known.
    """

    config_sha256: str
    weights_sha256: str | None = None
    data: str | None = None
    fitted_on: str | None = None


class ParityRecord(Config):
    """How far the export is from the PyTorch detector, measured on the calibration images in its own runtime.

    Attributes:
        n: Number of images.
        score_difference: Largest difference of scores, in the unit that :data:`advrad.exporting.TOLERANCES` says.
        score_tolerance: Difference beyond which the export would have been refused.
        map_difference: Largest difference of anomaly maps, as a share of the largest value of the map, or of the range
            of normal maps if that is larger.
        map_tolerance: Difference of maps beyond which the export would have been refused.
        flips: Number of images with another verdict.
        worst: Name of the image with the largest difference of scores.
    """

    n: int = Field(gt=0)
    score_difference: float = Field(ge=0)
    score_tolerance: float = Field(ge=0)
    map_difference: float = Field(ge=0)
    map_tolerance: float = Field(ge=0)
    flips: int = Field(ge=0)
    worst: str = ""


class RoundingRecord(Config):
    """What is proven about the rounding of the exported graph.

    Attributes:
        bound: Bound on ``|exported score - exact score|`` that holds for every image; None where none is proven.
        words: What holds for certificates, in a sentence.
    """

    bound: float | None = Field(None, ge=0)
    words: str


class GuardedRecord(Config):
    """The halves of an exported guarded detector.

    Attributes:
        names: Names of the halves, that of the memory first.
        tests: Their tests, in the same order; thresholds and scores are those of the exported graph.
        joint: Whether the other halves' scores of images on which the memory speaks do not count in their tests.
    """

    names: tuple[str, ...] = Field(min_length=2)
    tests: tuple[HalfTest, ...] = Field(min_length=2)
    joint: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.tests) != len(self.names):
            raise ValueError(f"tests: must be {len(self.names)}, one for each half, that of the memory first")
        return self


class ExportedConfig(Config):
    """Everything about an exported detector except its graph.

    Attributes:
        kind: Name of this kind of detector in files.
        source_kind: Kind of the detector that was exported, one of :data:`advrad.detectors.loading.KINDS`.
        description: How images are scored, in plain lines.
        engine: Runtime that the export was made for, and compared in.
        precision: Arithmetic of the graph.
        inference_precision: Value of OpenVINO's ``INFERENCE_PRECISION_HINT``: ``f32`` or ``bf16``.
        execution_mode: Value of OpenVINO's ``EXECUTION_MODE_HINT``.
        image_size_px: Side of the square to which images are scaled, in pixels; the longer side for rectangles.
        framing_record: How image files become working images; ``framing`` in JSON.
        calibration: Threshold of the score, and the scores of the exported graph that set it.
        rescored: Whether the threshold was set from scores of the exported graph; False for a detector that keeps its
            calibration images, which keeps the threshold that PyTorch's scores set.
        guarded: Halves of a guarded detector; None for another.
        noise_seed: Seed of the noise that the graph holds as constants; None for a detector without noise.
        inputs: Inputs of the graph.
        outputs: Outputs of the graph.
        parity: Comparison with the PyTorch detector; None if there were no images to compare on.
        rounding: What is proven about rounding.
        provenance: Where the export comes from.
        versions: Versions of the packages that made it.
        training: How the source was trained or fitted.
        figures: Results of the export on test images.
        files: SHA-256 of every file of the export except ``detector.json``, which holds its own, by name.
    """

    kind: Literal["exported"] = "exported"
    source_kind: str
    description: tuple[str, ...] = ()
    engine: EngineName
    precision: ExportPrecision
    inference_precision: Literal["f32", "bf16"] = "f32"
    execution_mode: Literal["ACCURACY", "PERFORMANCE"] = "ACCURACY"
    image_size_px: int = Field(gt=0)
    framing_record: FramingRecord = Field(alias="framing")
    calibration: Calibration
    rescored: bool = True
    guarded: GuardedRecord | None = None
    noise_seed: int | None = None
    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    parity: ParityRecord | None = None
    rounding: RoundingRecord
    provenance: ProvenanceRecord
    versions: dict[str, str]
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def robust_calibration(self) -> None:
        """None: an export has no threshold for certified verdicts."""

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        record, trained = self.framing_record, self.training
        whites = trained.value_range
        return Framing(
            record.height_px,
            record.width_px,
            record.pad,
            trained.shapes,
            whites,
            None if whites is None else whites.given,
            record.tile_px,
        )

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        return [*self.description, f"exported for {self.engine}, {self.precision}"]


def halves_of(config: object) -> GuardedConfig | GuardedRecord | None:
    """What a configuration says of the halves of a guarded detector, exported or not; None for another detector.

    Args:
        config: Configuration of a detector.
    """
    if isinstance(config, ExportedConfig):
        return config.guarded
    return config if isinstance(config, GuardedConfig) else None
