"""How images become patches, and which memory patches they are compared with."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from advrad.utils.config import Config


class MemoryConfig(Config):
    """How images become patches, and where a patch may lie.

    Attributes:
        kind: Name of this denoiser in files.
        size_px: Side of the square to which images are resized, pixels.
        cell_px: Side of the squares whose mean is a cell, pixels; divides ``size_px``.
        patch_cells: Side of a patch, cells; odd.
        window_cells: Largest distance, along each axis, between a patch and the memory patches that it is compared
            with, cells; None compares all sites, for products without a fixed position.
        taper: ``flat`` weighs all cells of a patch alike, ``gaussian`` weighs the middle more.
        gain: A memory patch may be this share brighter or darker, in [0, 0.5].
    """

    kind: Literal["memory"] = "memory"
    size_px: Annotated[int, Field(gt=0)] = 256
    cell_px: Annotated[int, Field(gt=0)] = 4
    patch_cells: Annotated[int, Field(gt=0)] = 7
    window_cells: Annotated[int, Field(ge=0)] | None = 2
    taper: Literal["flat", "gaussian"] = "flat"
    gain: float = Field(0.0, ge=0, le=0.5)

    @field_validator("patch_cells")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that a patch has a centre")
        return value

    @property
    def cells(self) -> int:
        """Number of cells along a side of an image."""
        return self.size_px // self.cell_px

    @property
    def sites(self) -> int:
        """Number of sites along a side of an image: patches lie wholly inside."""
        return self.cells - self.patch_cells + 1

    def weights(self) -> Tensor:
        """Weights of the values of a patch, (3 * patch_cells^2,), >= 0, with sum 1; channels first, as in unfolding."""
        if self.taper == "flat":
            side = torch.ones(self.patch_cells, dtype=torch.float64)
        else:
            places = torch.arange(self.patch_cells, dtype=torch.float64) - self.patch_cells // 2
            side = torch.exp(-(places**2) / (2 * (self.patch_cells / 4) ** 2))
        square = side[:, None] * side
        return (square / square.sum() / 3).flatten().repeat(3)
