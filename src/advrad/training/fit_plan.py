"""The plan of a closed form that is fitted alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advrad.data.shapes import ShapeName
from advrad.training.options import RunOptions
from advrad.training.plan_base import PlanBase


class ClosedFormPlan(PlanBase):
    """Everything that determines a closed-form detector that was fitted alone. It is written with the finished model.

    Attributes:
        kind: Name of this kind of plan in files.
        size_px: Side of the square to which the images were resized, pixels.
        seed: Seed of all draws.
        aspect: Width of the image files divided by their height; 1 if they differ.
        shape: How images become working images: ``stretch`` or ``pad`` to a square, or ``tiles``.
        tile_px: Side of a tile in pixels of the images; None for their shorter side, or without tiles.
    """

    kind: Literal["closed_form"] = "closed_form"
    size_px: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    aspect: float = Field(1.0, gt=0)
    shape: ShapeName = "stretch"
    tile_px: int | None = Field(None, gt=0)

    @property
    def options(self) -> RunOptions:
        """Options with which it was fitted."""
        return RunOptions(
            denoiser="memory",
            size_px=self.size_px,
            seed=self.seed,
            false_alarm_rate=self.false_alarm_rate,
            score=self.score,
            optimise_for_radius=self.optimise_for_radius,
            shape=self.shape,
            tile_px=self.tile_px,
            data=self.data_options,
        )
