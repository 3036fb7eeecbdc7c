"""Settings with which the parts of a product are found and cut out."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advrad.detectors.registration_bounds import Lattice
from advrad.utils.config import Config


class PartConfig(Config):
    """What is known about one part of a product.

    Attributes:
        base_deg: Direction from which turns are counted, degrees.
        flip: Which of both directions of the long axis is taken. ``reach``: the end that reaches further comes last;
            ``width``: the wider end comes last; ``both``: by the sum of both moments;
            ``none``: the direction within 90 degrees of the base; ``copies``: the same, for parts that lie in any
            direction and have equal ends. The memory then needs every sheet turned by 180 degrees, too.
        balance: Weight of the moment of ``width`` in the sum; negative where the wider end reaches less far.
        least_mass: Sum of weights below which the part counts as missing and the default position is used.
        row: Default position in the frame of the base, lattice steps from the centre of the image.
        column: Default position, as ``row``.
    """

    base_deg: float = 0.0
    flip: Literal["reach", "width", "both", "none", "copies"] = "none"
    balance: float = 0.0
    least_mass: float = Field(1.0, gt=0)
    row: int = 0
    column: int = 0


class RegisteredConfig(Config):
    """How the parts of a product are found and cut out.

    Attributes:
        kind: Name of this kind of view in files.
        size_px: Side of the square to which images are resized.
        aspect: Width of the pictured scene divided by its height. Turns happen in the scene, not in the square.
        channels: Values of a cell: 3 for colour, 1 for grey.
        cell_px: Side of a cell, in pixels of the longer side of the scene.
        height_cells: Height of a sheet.
        width_cells: Width of a sheet, along the long axis of the part.
        mask_px: Distance of neighbouring weights in pixels of the square; divides ``size_px``.
        blur_px: Side of the box over which pixels are averaged before they are weighed.
        low: Difference from the background at which the weight begins to rise.
        high: Difference from which on the weight is 1.
        turns: Lattice angles in half a turn; 1 for products that do not turn.
        step_cells: Distance of neighbouring positions on the lattice, down and across, cells.
        fill_blocks: What lies outside the image gets the colour of the border nearby, averaged over one of this many
            blocks along each side; 1 for the mean colour of the whole border, which spreads less in l2.
        usual_mass: Mean sum of weights of normal images.
        parts: The parts.
        limit: Largest number of poses of a part that are listed.
    """

    kind: Literal["registered"] = "registered"
    size_px: Annotated[int, Field(gt=0)] = 256
    aspect: Annotated[float, Field(gt=0)] = 1.0
    channels: Literal[1, 3] = 3
    cell_px: Annotated[float, Field(gt=0)] = 4 / 3
    height_cells: Annotated[int, Field(gt=0)]
    width_cells: Annotated[int, Field(gt=0)]
    mask_px: Annotated[int, Field(gt=0)] = 4
    blur_px: Annotated[int, Field(gt=0)] = 4
    low: float = Field(ge=0, lt=1)
    high: float = Field(gt=0)
    turns: Annotated[int, Field(gt=0)] = 1
    step_cells: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (1, 1)
    fill_blocks: Annotated[int, Field(gt=0)] = 8
    usual_mass: float = Field(1.0, gt=0)
    parts: Annotated[tuple[PartConfig, ...], Field(min_length=1)] = (PartConfig(),)
    limit: Annotated[int, Field(gt=0)] = 128

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size_px % self.mask_px:
            raise ValueError("mask_px: must divide size_px")
        if self.blur_px < self.mask_px or (self.blur_px - self.mask_px) % 2:
            raise ValueError("blur_px: must be mask_px, or larger by an even number")
        if self.size_px % self.fill_blocks:
            raise ValueError("fill_blocks: must divide size_px")
        if self.low >= self.high:
            raise ValueError("low: must be below high")
        return self

    @property
    def mask_cells(self) -> int:
        """Weights along one side of the square."""
        return self.size_px // self.mask_px

    @property
    def scale_x(self) -> float:
        """Width of the scene divided by its longer side."""
        return min(1.0, self.aspect)

    @property
    def scale_y(self) -> float:
        """Height of the scene divided by its longer side."""
        return min(1.0, 1 / self.aspect)

    def lattice(self, part: int) -> Lattice:
        """The poses that a part can take, in half sides of the square."""
        settings, unit = self.parts[part], self.cell_px / (self.size_px / 2)
        return Lattice(
            base=math.radians(settings.base_deg),
            turns=self.turns,
            column_step=self.step_cells[1] * unit,
            row_step=self.step_cells[0] * unit,
            flip=None if settings.flip == "none" or settings.flip == "copies" else settings.flip,
            balance=settings.balance,
        )
