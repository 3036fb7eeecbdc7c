"""The configuration of a detector, as the file ``config.json`` of a model folder holds it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from advrad.data.framing import Framing
from advrad.data.picture_statistics import PictureReference
from advrad.data.shapes import ShapeRecord
from advrad.data.value_range import RangeRecord
from advrad.denoisers.factory import DenoiserConfig
from advrad.detectors.guarded_figures import GuardedFigures
from advrad.detectors.score_config import ScoreConfig, describe
from advrad.utils.config import Config
from advrad.utils.precision import Precision


class Calibration(Config):
    """The detector's threshold and how it was set.

    Attributes:
        threshold: Threshold of the score; the verdict is defective where score > threshold.
        false_alarm_rate: Highest probability that a normal image like those of the calibration exceeds the threshold.
        n: Number of calibration images.
        heat_low: Value of the anomaly map at which heat maps start to glow: the median of the normal maps' maxima.
        heat_high: Value that normal anomaly maps exceed with at most ``false_alarm_rate``; outlined in heat maps.
        source: Origin of the images: data folder, category and seed of the split.
        scores: Scores of the calibration images, rising; they say where another rate would put the threshold. Empty if
            they are not recorded, as in folders of earlier versions.
        picture_statistics: Brightness and sharpness of normal images; None if they are not recorded, as in folders of
            earlier versions.

    Example:
        >>> Calibration(threshold=1.5, false_alarm_rate=0.05, n=19, heat_low=0.5, heat_high=1.2).threshold
        1.5
    """

    threshold: float
    false_alarm_rate: float = Field(gt=0, lt=1)
    n: int = Field(gt=0)
    heat_low: float
    heat_high: float
    source: dict[str, Any] = Field(default_factory=dict)
    scores: tuple[float, ...] = ()
    picture_statistics: PictureReference | None = None

    @model_serializer(mode="wrap")
    def _write_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if not self.scores:
            values.pop("scores", None)
        if self.picture_statistics is None:
            values.pop("picture_statistics", None)
        return values


class RobustCalibration(Config):
    """A threshold that keeps its false-alarm rate under attack, and how it was set.

    It is the conformal quantile of upper bounds of normal images' scores: of the smoothed score, or of the score itself
    where a detector has exact bounds.

    Attributes:
        threshold: Threshold of that score; the verdict is defective where score > threshold.
        false_alarm_rate: Highest probability of a false alarm for a normal image like those of the calibration, after
            any perturbation within ``radius``.
        radius: Radius of the perturbations, for an image of the detector's own size with values in [0, 1].
        norm: Norm of the perturbations.
        n: Number of calibration images.
        n_samples: Number of noise samples that bounded each image's score; ``draws`` in JSON. None for exact bounds.
        confidence: Confidence of each of these bounds; None for exact bounds, which always hold.
        source: Origin of the images: data folder, category and seed of the split.

    Example:
        >>> values = {"threshold": 2.0, "false_alarm_rate": 0.05, "radius": 0.2, "n": 30, "confidence": 0.999}
        >>> RobustCalibration(**values, n_samples=64).model_dump()["draws"]
        64
    """

    threshold: float
    false_alarm_rate: float = Field(gt=0, lt=1)
    radius: float = Field(ge=0)
    norm: Literal["linf", "l2"] = "l2"
    n: int = Field(gt=0)
    n_samples: int | None = Field(None, gt=0, alias="draws")
    confidence: float | None = Field(None, gt=0, lt=1)
    source: dict[str, Any] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _write_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if self.confidence is None:
            del values["draws"], values["confidence"]
        else:
            del values["norm"]  # always l2 with noise, and older versions do not know it
        return values


class _Record(Config):
    """Facts stored in a model folder: any may be missing, and older or newer ones that are unknown here are kept.

    Only the facts that were given are written back, so that a file without them stays without them.
    """

    model_config = ConfigDict(extra="allow")

    @model_serializer(mode="wrap")
    def _write_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        missing = {
            field.alias or name for name, field in type(self).model_fields.items() if name not in self.model_fields_set
        }
        return {name: value for name, value in write(self).items() if name not in missing}

    def __bool__(self) -> bool:
        """Whether any fact is stored."""
        return bool(self.model_fields_set)

    def to_dict(self) -> dict[str, Any]:
        """The stored facts as JSON values."""
        return self.model_dump(mode="json")


class ViewRecord(_Record):
    """One size at which training showed images.

    Attributes:
        image_px: Side of the square to which images were resized; ``picture_px`` in JSON.
        window_px: Side of the random window cut from them; equal to ``image_px`` for whole images.
    """

    image_px: int = Field(0, alias="picture_px")
    window_px: int = 0


class LoopRecord(_Record):
    """The options of the training loop that are shown or used later.

    Attributes:
        seed: Seed of the training.
        steps: Number of optimiser steps.
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        views: Sizes at which training showed images.
    """

    seed: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    views: tuple[ViewRecord, ...] = ()


class PlanRecord(_Record):
    """The plan of the training (:class:`advrad.training.plan.RunPlan`, without the names of the images).

    Attributes:
        category: Name of the product.
        train: Options of the training loop.
    """

    category: str | None = None
    train: LoopRecord = LoopRecord()


class ImageCounts(_Record):
    """Number of normal images used for each purpose.

    Attributes:
        train: Images from which the weights were learnt.
        selection: Images with which the score was chosen.
        calibration: Images with which the threshold was set.
    """

    train: int = 0
    selection: int = 0
    calibration: int = 0

    @property
    def total(self) -> int:
        """Number of normal images."""
        return self.train + self.selection + self.calibration


class TrainingRecord(_Record):
    """How a detector was trained.

    Attributes:
        plan: Plan of the training; None if it is not recorded.
        seconds: Duration of the training in seconds.
        images: Number of normal images by purpose; None if it is not recorded; ``pictures`` in JSON.
        tried: Name and AUROC of the best candidate scores, best first.
        candidates: Number of candidate scores.
        winner: Name of the chosen score.
        reason: Why it was chosen, in words.
        attacked: Name and robust or certified AUROC of the finalists, best first; empty if only clean accuracy counted.
        versions: Versions of the packages used.
        threads: Number of threads that the training computed with; None if it is not recorded.
        shapes: Shapes of the normal image files; None if they are not recorded.
        value_range: Range of the values of these files; None if it is not recorded.
        seen: Digests of all normal images that were used; see :mod:`advrad.data.trained_images`.
    """

    plan: PlanRecord | None = None
    seconds: float | None = None
    images: ImageCounts | None = Field(None, alias="pictures")
    tried: tuple[tuple[str, float], ...] = ()
    candidates: int | None = None
    winner: str | None = None
    reason: str = ""
    attacked: tuple[tuple[str, float], ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    threads: int | None = None
    shapes: ShapeRecord | None = None
    value_range: RangeRecord | None = None
    seen: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """Name of the product; empty if it is not recorded."""
        return (self.plan and self.plan.category) or ""

    @property
    def loop(self) -> LoopRecord:
        """Options of the training loop; without values if they are not recorded."""
        return self.plan.train if self.plan else LoopRecord()


class DefectFigures(_Record):
    """Figures of one kind of defect.

    Attributes:
        n: Number of its images.
        auroc: AUROC of its images against all normal images; None without normal images.
        tpr: Share of its images above the threshold; None without a threshold.
    """

    n: int = 0
    auroc: float | None = None
    tpr: float | None = None


class TestedFigures(_Record):
    """Figures measured on test images. None stands for what could not be measured.

    Attributes:
        image_auroc: AUROC over images.
        image_auroc_ci: 95 % interval of ``image_auroc``.
        pixel_auroc: AUROC over pixels.
        aupro: Area under the per-region overlap curve, for false-positive rates up to 30 %.
        tpr: Share of anomalous images above the threshold.
        fpr: Share of normal images above the threshold.
        threshold: Threshold of the score.
        n_normal: Number of normal test images; ``n_good`` in JSON.
        n_anomalous: Number of anomalous test images; ``n_defect`` in JSON.
        per_defect: Figures by kind of defect.
        shortcuts: AUROC with which brightness, contrast or sharpness alone separates normal from anomalous images.
        warnings: Texts to show wherever the figures are shown.
        guarded: Figures of the halves of a guarded detector; None for another detector.
    """

    image_auroc: float | None = None
    image_auroc_ci: tuple[float, float] | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    threshold: float | None = None
    n_normal: int = Field(0, alias="n_good")
    n_anomalous: int = Field(0, alias="n_defect")
    per_defect: dict[str, DefectFigures] = Field(default_factory=dict)
    shortcuts: dict[str, float] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    guarded: GuardedFigures | None = None


class RecordedFigures(TestedFigures):
    """Figures that a model folder keeps: those of the last evaluation, and those of certifications.

    Attributes:
        certified_linf: AUROC that every linf perturbation leaves at least, by radius as text, such as ``2/255``.
        certified_l2: AUROC that every l2 perturbation leaves at least, by radius as text.
    """

    certified_linf: dict[str, float] = Field(default_factory=dict)
    certified_l2: dict[str, float] = Field(default_factory=dict)


#: Names of the figures that a certification records.
CERTIFIED_FIGURES = ("certified_linf", "certified_l2")


class PaddedConfig(Config):
    """Base of configurations of detectors whose images may be padded.

    Attributes:
        pad: Whether image files keep their aspect ratio, and are padded to a square.
    """

    pad: bool = False

    @model_serializer(mode="wrap")
    def _write_padding_if_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if not self.pad:
            del values["pad"]  # unknown to older versions
        return values


class DetectorConfig(PaddedConfig):
    """Everything about a detector except its tensors.

    Attributes:
        denoiser: Kind and shape of the denoiser's network.
        size_px: Side of the square to which images are resized, in pixels.
        pad: Whether images keep their aspect ratio, and are padded to the square.
        score: How an image is scored.
        locations: Mean normal score of each error map.
        scales: Spread of each error map's normal score.
        ceilings: Ceiling of each error map's mean, see :func:`advrad.detectors.scoring.divide_by_image_mean`.
        noise_seed: Seed of the noise that :meth:`AdvRAD.predict` uses.
        precision: Arithmetic of :meth:`AdvRAD.predict`; ``auto`` is bfloat16 where the processor supports it.
        calibration: Threshold of the score; None if it was not set.
        robust_calibration: Threshold for certified verdicts; None if it was not set; ``guarantee`` in JSON.
        training: How the detector was trained.
        figures: Measured results, shown in the model card.

    Example:
        >>> from advrad.denoisers import LeanConfig
        >>> from advrad.detectors import NoiseView, ScoreConfig
        >>> score = ScoreConfig(views=(NoiseView(view_px=128, sigma=0.2),))
        >>> DetectorConfig(denoiser=LeanConfig(), size_px=256, score=score).calibration is None
        True
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
    robust_calibration: RobustCalibration | None = Field(None, alias="guarantee")
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @property
    def kind(self) -> str:
        """Kind of detector."""
        return "advrad"

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels."""
        return self.size_px

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        record = self.training
        return Framing.square(self.size_px, pad=self.pad, trained=record.shapes, trained_range=record.value_range)

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        return [describe(self.score), f"denoiser {self.denoiser.kind}"]
