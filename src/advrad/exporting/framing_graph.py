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
#: Number of rows of the working image that are computed together.
_TOGETHER = 16
#: Keeps a sum of weights away from 0.
_TINY = 1e-30


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
        down, across = (height, rows, framing.height_px, side), (width, columns, framing.width_px, side)
        scaled = _scaled_down(image[0].reshape(height, width * 3), *down)
        planes = scaled.reshape(framing.height_px, width, 3).permute(2, 0, 1)
        new, old = torch.arange(framing.width_px), torch.arange(width)
        working = planes @ _weights(new, old, *across).mT / _WHITE
        if framing.pad:
            covered = _covered(rows, framing.height_px)[:, None] & _covered(columns, framing.width_px)
            working = torch.where(covered, working, PADDING)
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


def _scaled_down(values: Tensor, length: int, scaled: int, total: int, side: int) -> Tensor:
    """Scale the rows of an image: the product with its matrix, a few rows of it at a time.

    Few pixels of the image lie below a few working pixels, so nearly all of the matrix is 0. Rows of the matrix are
    taken together with all rows of the image that any of them needs.

    Args:
        values: Rows of the image, (length, n) uint8.
        length: Length of the side of the image.
        scaled: Length to which it is scaled.
        total: Length of the working image, padding included.
        side: Side of the squares over which the image is averaged.

    Returns:
        Rows of the working image, (total, n) float32, times 255.
    """
    blocks = _blocks(length, side)
    reach = (_TOGETHER - 1) * blocks // scaled + 2 * ((_largest(blocks, scaled) + scaled - 1) // scaled) + 2
    count = _least(length, side * reach)
    parts = -(-total // _TOGETHER)
    new = torch.arange(parts * _TOGETHER).reshape(parts, _TOGETHER)
    # The first block of the image below the first of the rows that are taken together.
    twice = 2 * (new[:, :1] - (total - scaled) // 2) + 1
    first = (twice * blocks - 2 * _largest(blocks, scaled)).clamp_min(0) // (2 * scaled) * side
    old = torch.minimum(first, torch.full_like(first, 1) * (length - count)) + torch.arange(count)
    weights = _weights(new, old, length, scaled, total, side)
    rows = values.index_select(0, old.flatten()).reshape(parts, count, values.shape[1])
    return (weights @ rows.float()).reshape(parts * _TOGETHER, values.shape[1])[:total]


def _weights(new: Tensor, old: Tensor, length: int, scaled: int, total: int, side: int) -> Tensor:
    """Weights of pixels of the image in pixels of the working image, along one side.

    They are the triangle of :func:`advrad.data.transforms.resize`, computed in whole numbers: exact until the divisions
    by the number of pixels of a square and by the sum.

    Args:
        new: Places in the working image, (..., n) int64.
        old: Places in the image, (..., m) int64.
        length: Length of the side of the image.
        scaled: Length to which it is scaled.
        total: Length of the working image, padding included.
        side: Side of the squares over which the image is averaged.

    Returns:
        Weights, (..., n, m) float32: 0 in the padding; elsewhere with sum 1 over all places of the image.
    """
    blocks = _blocks(length, side)
    block, place = old // side, new - (total - scaled) // 2
    apart = ((2 * block[..., None, :] + 1) * scaled - (2 * place[..., None] + 1) * blocks).abs()
    weights = (2 * _largest(blocks, scaled) - apart).clamp_min(0).float()
    weights = weights / torch.minimum(length - block * side, torch.full_like(block, side))[..., None, :]
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(_TINY)
    inside = (place >= 0) & (place < scaled)
    return weights * inside[..., None].float()


def _covered(scaled: int, total: int) -> Tensor:
    """Which places of the working image show the image, (total,) bool; the others are padding."""
    place = torch.arange(total) - (total - scaled) // 2
    return (place >= 0) & (place < scaled)
