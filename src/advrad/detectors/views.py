"""Views: how an image becomes sheets of cells, which are compared with the sheets of normal images.

A cell is a weighted mean of pixels, with weights >= 0 and sum 1, so a perturbation of at most eps in
every pixel moves it by at most eps. A view of a registered part also finds the part; a perturbation can move it to
another pose, and ``reachable`` lists them all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Protocol, Self

import numpy as np
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from advrad.data.resize_norm import ROUNDING, resize_matrix, resize_terms
from advrad.data.transforms import resize
from advrad.utils.config import Config

Norm = Literal["linf", "l2"]


class View(Protocol):
    """How an image becomes sheets of cells."""

    @property
    def parts(self) -> int:
        """Number of sheets of an image."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sheet."""

    def sheets(self, images: Tensor) -> Tensor:
        """Turn images, (b, 3, h, w) in [0, 1], into sheets, (b, parts, c, H, W).

        Differentiable in the images; the pose is held fixed.
        """

    def reachable(self, image: Tensor, radius: float, norm: Norm) -> tuple[Tensor, ...] | None:
        """Cut out the sheets of an image at every pose that a perturbation can cause.

        Args:
            image: Unperturbed image, (1, 3, h, w).
            radius: Largest norm of the perturbation, >= 0.
            norm: Norm of the perturbation.

        Returns:
            For each part, sheets of the unperturbed image, (poses, c, H, W); the pose of the unperturbed image is the
            first. None if the poses are too many: then nothing is proven.
        """

    def l2_norm(self, height_px: int, width_px: int) -> float:
        """Compute the largest factor by which the l2 norm of a change grows from image to sheet, at any fixed pose."""

    def terms(self, height_px: int, width_px: int) -> int:
        """Count the terms that are summed, one after the other, from the pixels of an image to a cell."""


class WholeConfig(Config):
    """The whole image as one sheet.

    Attributes:
        kind: Name of this kind of view in files.
        size_px: Side of the square to which images are resized.
        cell_px: Side of a cell in pixels of that square; divides ``size_px``.
        channels: Values of a cell: 3 for colour, 1 for grey.
    """

    kind: Literal["whole"] = "whole"
    size_px: Annotated[int, Field(gt=0)] = 256
    cell_px: Annotated[int, Field(gt=0)] = 4
    channels: Literal[1, 3] = 3

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.size_px % self.cell_px:
            raise ValueError("cell_px: must divide size_px")
        return self


class WholeView:
    """The whole image as one sheet: resized to a square, then averaged over cells.

    Args:
        config: Size of square and cells; None for the defaults.

    Example:
        >>> import torch
        >>> view = WholeView(WholeConfig(size_px=64, cell_px=4))
        >>> tuple(view.sheets(torch.rand(2, 3, 80, 60)).shape)
        (2, 1, 3, 16, 16)
    """

    def __init__(self, config: WholeConfig | None = None) -> None:
        self.config = config or WholeConfig()

    @property
    def parts(self) -> int:
        """Number of sheets of an image."""
        return 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sheet."""
        side = self.config.size_px // self.config.cell_px
        return self.config.channels, side, side

    def sheets(self, images: Tensor) -> Tensor:
        """Turn images into sheets, see :class:`View`."""
        grey = images.mean(1, keepdim=True) if self.config.channels == 1 else images
        return F.avg_pool2d(resize(grey, self.config.size_px), self.config.cell_px)[:, None]

    def reachable(self, image: Tensor, radius: float, norm: Norm) -> tuple[Tensor, ...] | None:
        """List the only sheet, see :class:`View`."""
        return (self.sheets(image)[0],)

    def l2_norm(self, height_px: int, width_px: int) -> float:
        """Compute the norm of the map from image to sheet, see :class:`View`."""
        sides = [pooled_norm(length, self.config.size_px, self.config.cell_px) for length in (height_px, width_px)]
        return sides[0] * sides[1] * channel_norm(self.config.channels)

    def terms(self, height_px: int, width_px: int) -> int:
        """Count the terms of a cell, see :class:`View`."""
        return 3 + resize_terms((height_px, width_px), self.config.size_px) + self.config.cell_px**2


def channel_norm(channels: int) -> float:
    """Norm of what is done to the channels of a pixel: nothing, or their mean."""
    return float(np.sqrt(1 / 3)) * ROUNDING if channels == 1 else 1.0


@lru_cache(maxsize=256)
def pooled_norm(length_px: int, size_px: int, cell_px: int) -> float:
    """Compute the norm of resizing one side and averaging over cells.

    Args:
        length_px: Length of the side before.
        size_px: Length of the side after resizing.
        cell_px: Side of a cell.

    Returns:
        Largest singular value of the matrix of both steps.
    """
    matrix = np.eye(size_px) if length_px == size_px else resize_matrix(length_px, size_px)
    cells = matrix.reshape(size_px // cell_px, cell_px, length_px).mean(1)
    gram = cells @ cells.T if cells.shape[0] <= cells.shape[1] else cells.T @ cells
    return float(np.sqrt(np.linalg.eigvalsh(gram)[-1])) * ROUNDING
