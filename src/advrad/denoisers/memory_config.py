"""How sheets of cells become patches, and which memory patches they are compared with."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from advrad.utils.config import Config

Cells = Annotated[int, Field(ge=0)]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that a patch has a centre")
    return value


#: Side of a patch, cells; odd.
PatchCells = Annotated[int, Field(gt=0), AfterValidator(_odd)]


class MemoryConfig(Config):
    """How sheets of cells become patches, and where a patch may lie.

    Attributes:
        height_cells: Height of a sheet, cells.
        width_cells: Width of a sheet, cells.
        channels: Values of a cell: 3 for colour, 1 for grey.
        patch_cells: Side of a patch, cells; odd.
        window_cells: Largest distance, down and across, between a patch and the memory patches that it is compared
            with, cells; None compares all, for products without a fixed position.
        stride_cells: Distance between neighbouring patches, cells; at most ``patch_cells``, so that all cells count.
        taper: ``flat`` weighs all cells of a patch alike, ``gaussian`` weighs the middle more.
        gain: A memory patch may be this share brighter or darker, in [0, 0.5].
        chosen_patches: Number of memory patches that each patch is compared with, where each has its own; None for all
            in the window.

    Example:
        >>> MemoryConfig(height_cells=64, width_cells=64, stride_cells=2).sites
        (30, 30)
    """

    height_cells: Annotated[int, Field(gt=0)]
    width_cells: Annotated[int, Field(gt=0)]
    channels: Literal[1, 3] = 3
    patch_cells: PatchCells = 7
    window_cells: tuple[Cells, Cells] | None = (2, 2)
    stride_cells: Annotated[int, Field(gt=0)] = 1
    taper: Literal["flat", "gaussian"] = "flat"
    gain: float = Field(0.0, ge=0, le=0.5)
    chosen_patches: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.patch_cells > min(self.height_cells, self.width_cells):
            raise ValueError("patch_cells: a patch must fit into a sheet")
        if self.stride_cells > self.patch_cells:
            raise ValueError("stride_cells: must be at most patch_cells, so that every cell is part of a patch")
        if self.chosen_patches is not None and self.window_cells is None:
            raise ValueError("chosen_patches: needs a window")
        return self

    @property
    def rows(self) -> list[int]:
        """First cell of the patches, downwards. The last patch ends at the border."""
        return _places(self.height_cells, self.patch_cells, self.stride_cells)

    @property
    def columns(self) -> list[int]:
        """First cell of the patches, across."""
        return _places(self.width_cells, self.patch_cells, self.stride_cells)

    @property
    def sites(self) -> tuple[int, int]:
        """Number of patches of a sheet, down and across."""
        return len(self.rows), len(self.columns)

    def weights(self) -> Tensor:
        """Weights of the values of a patch, (channels * patch_cells^2,), >= 0, with sum 1; channels first."""
        if self.taper == "flat":
            side = torch.ones(self.patch_cells, dtype=torch.float64)
        else:
            places = torch.arange(self.patch_cells, dtype=torch.float64) - self.patch_cells // 2
            side = torch.exp(-(places**2) / (2 * (self.patch_cells / 4) ** 2))
        square = side[:, None] * side
        return (square / square.sum() / self.channels).flatten().repeat(self.channels)


def _places(length: int, patch: int, stride: int) -> list[int]:
    last = length - patch
    places = list(range(0, last + 1, stride))
    return places if places[-1] == last else [*places, last]
