"""The closed form and a learned denoiser in one detector.

The score of an image is

    A(x) = M(x) + weight * clip(L(x), low, high),

with the score M of the closed form and the score L of the learned denoiser. Whatever an attack does to the learned
part, it contributes at least ``weight * low`` and at most ``weight * high``, so bounds of M give bounds of A:

    M_lower + weight * low <= A(x + d) <= M_upper + weight * high.

They hold for every perturbation d within the radius and for every noise that the learned part draws. In the same way, a
bound of M under a sticker gives one of A.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from advrad.data.framing import Framing
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import DetectorOutput, ScoreBounds, SurrogateLoss
from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector
from advrad.detectors.config import (
    Calibration,
    DetectorConfig,
    RecordedFigures,
    RobustCalibration,
    TrainingRecord,
)
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import load_kind, save_folder, write_card
from advrad.detectors.saved import SavedMixin
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.utils.config import Config
from advrad.utils.precision import Precision


class CombinedConfig(Config):
    """Everything about a combined detector except its tensors.

    Attributes:
        kind: Name of this kind of detector in files.
        memory: Configuration of the closed form.
        learned: Configuration of the learned detector.
        weight: Weight of the learned score beside that of the closed form, >= 0.
        low: Least value of the learned score that counts.
        high: Largest value of the learned score that counts.
        calibration: Threshold of the score; None if it was not set.
        robust_calibration: Threshold that keeps its false-alarm rate under attack; None if it was not set.
        training: How the learned denoiser was trained, and why the two are combined in this way.
        figures: Measured results, shown in the model card.
    """

    kind: Literal["combined"] = "combined"
    memory: ClosedFormConfig
    learned: DetectorConfig
    weight: float = Field(ge=0)
    low: float
    high: float
    calibration: Calibration | None = None
    robust_calibration: RobustCalibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels."""
        return self.learned.size_px

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        pad, record = self.learned.pad, self.training
        return Framing.square(self.image_size_px, pad=pad, trained=record.shapes, trained_range=record.value_range)

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        return [
            *self.memory.describe(),
            f"plus {self.weight:.3g} times the score of a learned denoiser, limited to {self.low:g} .. {self.high:g}",
            *self.learned.describe(),
        ]


class CombinedDetector(SavedMixin, nn.Module):
    """Anomaly detector whose score is that of the closed form plus a limited share of a learned denoiser's.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that supports score bounds and sticker bounds, and can be
    saved.

    Args:
        config: Configuration; its parts must describe ``memory`` and ``learned``.
        memory: Closed-form detector.
        learned: Learned detector. It is put in evaluation mode and its parameters are frozen.

    Example:
        Needs a trained model folder.

        >>> detector = CombinedDetector.from_pretrained("bottle")  # doctest: +SKIP
        >>> bounds = detector.score_bounds(torch.rand(1, 3, 256, 256), 2 / 255, "linf")  # doctest: +SKIP
        >>> bool(bounds.lower <= bounds.scores <= bounds.upper)  # doctest: +SKIP
        True
    """

    deterministic = False
    differentiable = True
    size_px = None

    def __init__(self, config: CombinedConfig, memory: ClosedFormDetector, learned: AdvRAD) -> None:
        super().__init__()
        self.memory = memory
        self.learned = learned
        self.config = config.model_copy(update={"memory": memory.config, "learned": learned.detector_config})
        self._white_box = WhiteBoxAdvRAD(learned)

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels."""
        return self.config.image_size_px

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.learned.device

    @property
    def noise_seed(self) -> int:
        """Seed of the noise that :meth:`predict` uses."""
        return self.config.learned.noise_seed

    def update_config(self, **changes: object) -> None:
        """Replace fields of the configuration.

        Args:
            changes: New values of fields of :class:`CombinedConfig`, by name.
        """
        self.config = self.config.model_copy(update=changes)

    # --- Scoring ---

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """Compute scores and anomaly maps; row i depends on row i only.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
            generator: Source of the noise of the learned part; rows share each draw.

        Returns:
            Scores, (b,), and maps, (b, 1, size, size). Differentiable in ``images`` where the learned score is within
            its limits; elsewhere the gradient is that of the closed form.
        """
        return self.joined(self.memory.infer(images), self._white_box.infer(images, generator))

    def joined(self, memory: DetectorOutput, learned: DetectorOutput) -> DetectorOutput:
        """Add the scores and the maps of the two parts.

        Args:
            memory: Output of the closed form for b images.
            learned: Output of the learned detector for the same images.
        """
        scores = memory.scores + self._contribution(learned.scores)
        if memory.anomaly_maps is None or learned.anomaly_maps is None:
            return DetectorOutput(scores, None, learned.reconstructions)
        maps = self._resized(memory.anomaly_maps) + self._contribution(learned.anomaly_maps)
        return DetectorOutput(scores, maps, learned.reconstructions)

    def _contribution(self, learned: Tensor) -> Tensor:
        """What scores or maps of the learned part add."""
        return self.config.weight * learned.float().clamp(self.config.low, self.config.high)

    def _resized(self, maps: Tensor) -> Tensor:
        """Maps of the closed form, (b, 1, h, w), at the size of the learned ones. Weights are at least 0."""
        side = self.learned.size_px
        if maps.shape[2:] == (side, side):
            return maps
        return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        """Bound the scores under every perturbation within a radius, see :class:`SupportsScoreBounds`.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
            radius: Radius, >= 0, in [0, 1] pixel units of the images as given.
            norm: Norm of the perturbation.

        Returns:
            Scores as :meth:`predict` computes them, and bounds that also hold for any other noise.
        """
        bounds = self.memory.score_bounds(images, radius, norm)
        learned = self.learned.predict_batch(images).scores
        # The sums that the scores are, at the ends of the range: rounding is monotone, so none of it is lost.
        low, high = (self._contribution(torch.tensor(end)) for end in (self.config.low, self.config.high))
        return ScoreBounds(
            scores=bounds.scores + self._contribution(learned),
            lower=bounds.lower + low,
            upper=bounds.upper + high,
            lower_map=self._resized(bounds.lower_map) + low,
        )

    def sticker_bounds(self, images: Tensor, side_px: int) -> Tensor:
        """Bound the scores from below, whatever one square shows, see :class:`SupportsStickerBounds`.

        A sticker leaves of the closed form what its own bound says, and at least ``weight * low`` of the learned part.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
            side_px: Side of the square, in pixels of the images as given; >= 1.

        Returns:
            Lower bounds of the scores, (b,), for any noise; minus infinity where nothing is left.
        """
        return self.memory.sticker_bounds(images, side_px) + self._contribution(torch.tensor(self.config.low))

    # --- What an attack may use ---

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow in place of the score: those of both parts, and the parts themselves."""
        losses: dict[str, SurrogateLoss] = {}
        for name, part in (("memory", self.memory), ("learned", self._white_box)):
            losses[name] = SurrogateLoss(_Scores(part), "surrogate")
            for inner, loss in part.surrogates.items():
                kind = loss.kind if loss.kind == "bpda" else "surrogate"
                losses[f"{name}: {inner}"] = SurrogateLoss(loss.function, kind)
        return losses

    @property
    def gradient_precision(self) -> Literal["float32", "bfloat16"]:
        """See :class:`advrad.detectors.base.SupportsGradientPrecision`."""
        return self._white_box.gradient_precision

    def with_gradient_precision(self, precision: Precision) -> CombinedDetector:
        """See :class:`advrad.detectors.base.SupportsGradientPrecision`."""
        other = CombinedDetector(self.config, self.memory, self.learned)
        other._white_box = self._white_box.with_gradient_precision(precision)
        return other.eval()

    # --- Deciding ---

    def predict_batch(self, images: Tensor) -> DetectorOutput:
        """Score images as :meth:`predict` does: without gradients, with the stored noise seed.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            The output on the CPU, float32; the same for any batch size, on a GPU up to rounding.

        Raises:
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
        """
        learned = self.learned.predict_batch(images)
        return self.joined(self.memory.predict_batch(images), DetectorOutput(*learned))

    # --- The model folder ---

    def save_pretrained(self, folder: str | Path, /) -> None:
        """Write the model folder; ``model.safetensors`` holds the tensors of both parts.

        Args:
            folder: Folder, made if missing; a model in it is replaced.

        Raises:
            OutputError: The folder holds files that advrad did not write, or cannot be written.
        """
        place = Path(folder)
        save_folder(place, self.config.model_dump(mode="json"), dict(self.state_dict()))
        write_card(place, render(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CombinedDetector:
        """Load a model folder that :meth:`save_pretrained` wrote.

        Args:
            folder: Model folder.

        Raises:
            CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
        """
        values, tensors, source = load_kind(Path(folder), "combined", "a combined detector")
        config = CombinedConfig.parse(values, source)
        memory = ClosedFormDetector.assemble(config.memory, _with_prefix(tensors, "memory."), source)
        learned = AdvRAD.assemble(config.learned, _with_prefix(tensors, "learned."), source)
        return cls(config, memory, learned).eval()


class _Scores:
    """The score of one part as a function of images and a source of noise.

    Args:
        part: Detector.
    """

    def __init__(self, part: ClosedFormDetector | WhiteBoxAdvRAD) -> None:
        self.part = part

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the scores, (b,), of images, (b, 3, h, w)."""
        return self.part.infer(images, generator).scores


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors whose names have a prefix, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
