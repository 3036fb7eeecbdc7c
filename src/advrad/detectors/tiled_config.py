"""Settings of a detector that cuts images into tiles."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advrad.data.framing import Framing
from advrad.detectors.closed_form_config import ClosedFormConfig
from advrad.detectors.config import Calibration, RecordedFigures, RobustCalibration, TrainingRecord
from advrad.utils.config import Config

#: Least share of a tile that it has in common with its neighbour, so that a small defect lies whole in one of them.
OVERLAP = 0.25


def tile_starts(length_px: int, tile_px: int) -> tuple[int, ...]:
    """Where tiles begin along one side: evenly, from one end to the other, with an overlap.

    Args:
        length_px: Length of the side, at least ``tile_px``.
        tile_px: Side of a tile.

    Example:
        >>> tile_starts(600, 256)
        (0, 172, 344)
    """
    left = length_px - tile_px
    count = math.ceil(left / (tile_px * (1 - OVERLAP)))
    return tuple(round(left * place / max(1, count)) for place in range(count + 1))


class TiledConfig(Config):
    """Everything about a detector of tiles except its tensors.

    Attributes:
        kind: Name of this kind of detector in files.
        base: Configuration of the closed form that scores the tiles.
        height_px: Height to which images are scaled before they are cut into tiles.
        width_px: Width to which images are scaled before they are cut into tiles.
        held_out: Numbers of the images that set the threshold, in the order in which the images were given.
        calibration: Threshold of the score; None if it was not set.
        robust_calibration: Threshold that keeps its false-alarm rate under attack; None if it was not set.
        training: How the detector was fitted.
        figures: Measured results, shown in the model card.
    """

    kind: Literal["tiled"] = "tiled"
    base: ClosedFormConfig
    height_px: Annotated[int, Field(gt=0)]
    width_px: Annotated[int, Field(gt=0)]
    held_out: tuple[int, ...] = ()
    calibration: Calibration | None = None
    robust_calibration: RobustCalibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()

    @model_validator(mode="after")
    def _tiles_fit(self) -> Self:
        if min(self.height_px, self.width_px) < self.image_size_px:
            raise ValueError("height_px and width_px: must not be below the side of a tile")
        return self

    @property
    def image_size_px(self) -> int:
        """Side of a tile, in pixels of the scaled image."""
        return self.base.image_size_px

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        record = self.training
        return Framing(
            self.height_px,
            self.width_px,
            trained=record.shapes,
            trained_range=record.value_range,
            tile_px=self.image_size_px,
        )

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """Row and column at which each tile begins."""
        down, across = (tile_starts(length, self.image_size_px) for length in (self.height_px, self.width_px))
        return tuple((row, column) for row in down for column in across)

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        count, side = len(self.corners), self.image_size_px
        return [
            f"scales the image to {self.width_px} x {self.height_px} px and cuts it into {count} overlapping tiles of"
            f" {side} px; the largest score of a tile counts",
            *self.base.describe(),
        ]
