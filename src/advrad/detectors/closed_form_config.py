"""Settings of the closed-form detector: its members, and what was learned about it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advrad.data.framing import Framing
from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.config import Calibration, PaddedConfig, RecordedFigures, RobustCalibration, TrainingRecord
from advrad.detectors.registration_config import RegisteredConfig
from advrad.detectors.views import WholeConfig
from advrad.utils.config import Config

ViewConfig = Annotated[WholeConfig | RegisteredConfig, Field(discriminator="kind")]


class StrayConfig(Config):
    """How the member of a registered product scores what lies outside the parts: ``(share - location) / scale``.

    Attributes:
        location: Share of the usual foreground whose score is 0.
        scale: Share by which the score rises by 1, > 0.
    """

    location: float
    scale: float = Field(gt=0)


class MemberConfig(Config):
    """How one member of a closed-form detector scores an image.

    Attributes:
        view: How an image becomes sheets of cells.
        memory: How sheets become patches, and which memory patches they are compared with.
        pooling: Share of the largest standardised distances whose mean is the score, in [0, 1]; 0 is the maximum.
        tolerance: Added to the spread of each site, > 0; a standardised distance changes by at most
            ``eps / tolerance`` under a perturbation of at most eps in every pixel.
        location: Typical score of normal images; subtracted, so that members can be compared.
        scale: Spread of the score of normal images, > 0; the score is divided by it.
        strays: Score of what lies outside the parts, for registered views; None if it does not count.

    Example:
        >>> member = MemberConfig(view=WholeConfig(), memory=MemoryConfig(height_cells=64, width_cells=64))
        >>> member.describe()[0]
        'compares patches of 7 x 7 cells of 4 px in colour, at their place within 2 x 2 cells'
    """

    view: ViewConfig
    memory: MemoryConfig
    pooling: float = Field(0.0, ge=0, le=1)
    tolerance: float = Field(1.0, gt=0)
    location: float = 0.0
    scale: float = Field(1.0, gt=0)
    strays: StrayConfig | None = None

    @model_validator(mode="after")
    def _strays_need_parts(self) -> Self:
        if self.strays is not None and isinstance(self.view, WholeConfig):
            raise ValueError("strays: needs a view that finds parts")
        return self

    def describe(self) -> list[str]:
        """Describe the member in plain lines."""
        memory = self.memory
        place = (
            "wherever they lie"
            if memory.window_cells is None
            else f"at their place within {memory.window_cells[0]} x {memory.window_cells[1]} cells"
        )
        colour = "in colour" if memory.channels == 3 else "in grey"
        lines = [
            f"compares patches of {memory.patch_cells} x {memory.patch_cells} cells of {self.view.cell_px:.3g} px"
            f" {colour}, {place}"
        ]
        if memory.gain:
            lines.append(f"tolerates patches that are up to {memory.gain:.0%} brighter or darker")
        if isinstance(self.view, RegisteredConfig):
            count = len(self.view.parts)
            turned = "position and turn" if self.view.turns > 1 else "position"
            what = "the part is" if count == 1 else f"each of the {count} parts is"
            lines.append(f"{what} found first, and compared whatever its {turned}")
        if self.strays is not None:
            lines.append("counts what lies outside the parts, such as debris or a further part, as an anomaly")
        return lines


class ClosedFormConfig(PaddedConfig):
    """Everything about a closed-form detector except its tensors.

    Attributes:
        kind: Name of this kind of detector in files.
        members: Members; the score is the largest of theirs.
        image_size_px: Side of the square to which image files are scaled, in pixels.
        aspect: Width of the image files divided by their height, before they are scaled to a square.
        pad: Whether image files keep their aspect ratio, and are padded to a square.
        held_out: Numbers of the images that set the threshold, in the order in which the images were given.
        calibration: Threshold of the score; None if it was not set.
        robust_calibration: Threshold that keeps its false-alarm rate under attack; None if it was not set.
        training: How the detector was fitted.
        figures: Measured results, shown in the model card.
    """

    kind: Literal["closed_form"] = "closed_form"
    members: Annotated[tuple[MemberConfig, ...], Field(min_length=1)]
    image_size_px: Annotated[int, Field(gt=0)] = 256
    aspect: Annotated[float, Field(gt=0)] = 1.0
    held_out: tuple[int, ...] = ()
    calibration: Calibration | None = None
    robust_calibration: RobustCalibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        record = self.training
        return Framing.square(self.image_size_px, pad=self.pad, trained=record.shapes, trained_range=record.value_range)

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        return [line for member in self.members for line in member.describe()]
