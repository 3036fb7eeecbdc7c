"""How an image of any size becomes the working image, as a graph: what :mod:`advrad.data.images` does to a file.

An image of 8-bit colour is averaged over squares if it is large, resized by antialiased bilinear interpolation, and
padded. All three are linear and treat rows and columns separately, so the working image is

    working = A @ image @ B^T + padding,

with one matrix for rows and one for columns, which the graph computes from the height and the width of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advrad.data.framing import PADDING, Framing
from advrad.data.images import REDUCE_ABOVE_PIXELS

#: Value of white of 8-bit images.
_WHITE = 255


class FramingGraph(nn.Module):
    """Turns an image of 8-bit colour into the working image, as :func:`advrad.data.images.read_working_image` does.

    Args:
        framing: How images become working images.

    Example:
        >>> graph = FramingGraph(Framing.square(16))
        >>> graph(torch.full((1, 40, 30, 3), 255, dtype=torch.uint8)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing

    def forward(self, image: Tensor) -> Tensor:
        """Make the working image.

        Args:
            image: Pixels, (1, h, w, 3) uint8, of any height and width.

        Returns:
            The working image, (1, 3, height_px, width_px) float32 in [0, 1].
        """
        framing = self.framing
        height, width = image.shape[1:3]
        side = _reduction(height, width, *_scaled_size(framing, height, width))
        rows, columns = _scaled_size(framing, _blocks(height, side), _blocks(width, side))
        down = _matrix(height, rows, framing.height_px, side)
        across = _matrix(width, columns, framing.width_px, side)
        working = down @ image[0].permute(2, 0, 1).float() @ across.mT / _WHITE
        if framing.pad:
            covered = down.sum(1)[:, None] * across.sum(1)
            working = torch.where(covered > 0, working, PADDING)
        return working[None]


def _scaled_size(framing: Framing, height: int, width: int) -> tuple[int, int]:
    """What :meth:`Framing.scaled_size` gives, without a branch: the sizes of an image may be symbols of a graph."""
    if not framing.pad:
        return framing.height_px, framing.width_px
    rows = _rounded(height * framing.width_px, width)
    columns = _rounded(width * framing.height_px, height)
    return _within(rows, framing.height_px), _within(columns, framing.width_px)


def _rounded(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest whole number, halves to the even one."""
    doubled = 2 * numerator + denominator
    whole = doubled // (2 * denominator)
    is_half = 1 - _least(doubled % (2 * denominator), 1)
    return whole - is_half * (whole % 2)


def _within(count: int, most: int) -> int:
    return _least(_largest(count, 1), most)


def _least(first: int, second: int) -> int:
    return torch.sym_min(first, second)  # type: ignore[no-untyped-call, no-any-return]


def _largest(first: int, second: int) -> int:
    return torch.sym_max(first, second)  # type: ignore[no-untyped-call, no-any-return]


def _reduction(height: int, width: int, rows: int, columns: int) -> int:
    """What :func:`advrad.data.images.reduction_px` gives, without a branch."""
    is_large = _least(height * width // (REDUCE_ABOVE_PIXELS + 1), 1)
    side = _largest(_least(height // (2 * rows), width // (2 * columns)), 1)
    return 1 + is_large * (side - 1)


def _blocks(length: int, side: int) -> int:
    """Length of a side after averaging over squares; the last square may be smaller."""
    return (length + side - 1) // side


def _matrix(length: int, scaled: int, total: int, side: int) -> Tensor:
    """The matrix of one side, (total, length), from pixels of the image to pixels of the working image.

    A row is the triangle of :func:`advrad.data.transforms.resize`, computed in whole numbers: exact until the division
    by the sum.

    Args:
        length: Length of the side of the image.
        scaled: Length to which it is scaled.
        total: Length of the working image, padding included.
        side: Side of the squares over which the image is averaged.
    """
    places = torch.arange(length)
    block, blocks = places // side, _blocks(length, side)
    new = torch.arange(total)[:, None] - (total - scaled) // 2
    apart = ((2 * block + 1) * scaled - (2 * new + 1) * blocks).abs()
    weights = (2 * _largest(blocks, scaled) - apart).clamp_min(0)
    weights = torch.where((new >= 0) & (new < scaled), weights, torch.zeros_like(weights)).float()
    weights = weights / torch.minimum(length - block * side, torch.full_like(block, side))
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
