"""The plan of a closed form that is fitted alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advrad.data.options import DataOptions
from advrad.data.records import MAX_PIXELS
from advrad.data.shapes import ShapeName
from advrad.training.options import RunOptions, ScoreAim
from advrad.utils.config import Config


class ClosedFormPlan(Config):
    """Everything that determines a closed-form detector that was fitted alone. It is written with the finished model.

    Attributes:
        kind: Name of this kind of plan in files.
        data: Folder of the images.
        layout: Layout of that folder.
        category: Name of the product.
        size_px: Side of the square to which the images were resized, pixels.
        seed: Seed of all draws.
        aspect: Width of the image files divided by their height; 1 if they differ.
        false_alarm_rate: Largest share of normal images that may be called anomalous.
        score: How the score is chosen: ``auto`` for clean images, ``robust`` for images under attack.
        optimise_for_radius: Radius for which the score is chosen by its certified results, l2; None for none.
        max_pixels: Largest number of pixels of an image file.
        value_range: Value of white in the image files; None if they tell it.
        skip_bad: Whether unreadable images were left out.
        leaves_out_copies: Whether images that are copies of others were left out; older versions did not.
        names: Names of the normal images.
        shape: How images become working images: ``stretch`` or ``pad`` to a square, or ``tiles``.
        tile_px: Side of a tile in pixels of the images; None for their shorter side, or without tiles.
    """

    kind: Literal["closed_form"] = "closed_form"
    data: str
    layout: str
    category: str
    size_px: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    aspect: float = Field(1.0, gt=0)
    false_alarm_rate: float = Field(0.05, gt=0, lt=1)
    score: ScoreAim = "auto"
    optimise_for_radius: float | None = Field(None, gt=0)
    max_pixels: int = MAX_PIXELS
    value_range: float | None = Field(None, gt=0)
    skip_bad: bool = False
    leaves_out_copies: bool = False
    names: tuple[str, ...]
    shape: ShapeName = "stretch"
    tile_px: int | None = Field(None, gt=0)

    @property
    def options(self) -> RunOptions:
        """Options with which it was fitted."""
        data = DataOptions(
            layout=self.layout,
            category=self.category,
            skip_bad=self.skip_bad,
            max_pixels=self.max_pixels,
            value_range=self.value_range,
        )
        return RunOptions(
            denoiser="memory",
            size_px=self.size_px,
            seed=self.seed,
            false_alarm_rate=self.false_alarm_rate,
            score=self.score,
            optimise_for_radius=self.optimise_for_radius,
            shape=self.shape,
            tile_px=self.tile_px,
            data=data,
        )
