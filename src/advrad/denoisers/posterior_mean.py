"""The posterior mean of an image over the patches of a memory, and its gradient, with bounded memory."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Number of values of the memory that are compared at a time, which bounds the memory that a computation takes.
_BLOCK_VALUES = 2**22
#: Number of distances up to which they are kept for a second pass. More are computed again.
_KEPT_VALUES = 2**26
#: Logarithm of the smallest weight. Smaller ones are raised to it: they change no sum in float64, and processors are
#: slow with numbers that are nearly 0.
_MIN_LOGIT = -60.0


class PatchShape(NamedTuple):
    """Size of the patches, and which are compared.

    Attributes:
        side: Side of an image, cells.
        patch: Side of a patch, cells.
        reach: Largest displacement of a memory patch along each axis, cells.
    """

    side: int
    patch: int
    reach: int


class _Block(NamedTuple):
    """Memory images that are compared with an image at one displacement.

    Attributes:
        start: First image of the memory.
        stop: Image after the last one.
        down: Rows by which the memory patches lie below the patches of the image; negative for above.
        across: Columns by which they lie to the right.
    """

    start: int
    stop: int
    down: int
    across: int

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Left, right, top and bottom cells of an image beside which the block has nothing."""
        return max(0, -self.across), max(0, self.across), max(0, -self.down), max(0, self.down)

    def inside(self, values: Tensor) -> Tensor:
        """The part of maps, (..., h, w), of an image beside which the block has something."""
        left, right, top, bottom = self.margins
        return values[..., top : values.shape[-2] - bottom, left : values.shape[-1] - right]


class _Comparison:
    """The comparison of an image with the memory, block by block.

    Distances and estimates of all patches at a displacement are sums over square windows of maps, which products with
    band matrices compute.

    Args:
        cells: Noisy image, (3, side, side).
        sigma: Noise level of a cell.
        memory: Normal images, (n, 3, side, side).
        shape: Size of the patches, and which are compared.
    """

    def __init__(self, cells: Tensor, sigma: float, memory: Tensor, shape: PatchShape) -> None:
        self.cells, self.sigma, self.memory, self.shape = cells, sigma, memory, shape
        self.summing = _band(shape, [1.0] * shape.patch, cells)
        # Overlapping patches are averaged with the highest weight in the middle of each.
        self.blending = _band(
            shape, [math.sin(math.pi * (i + 0.5) / shape.patch) ** 2 for i in range(shape.patch)], cells
        )
        size = max(1, _BLOCK_VALUES // (3 * shape.side**2))
        moves = range(-shape.reach, shape.reach + 1)
        self.blocks = [
            _Block(start, start + size, down, across)
            for start in range(0, len(memory), size)
            for down in moves
            for across in moves
        ]
        sites = shape.side - shape.patch + 1
        self._keeps = len(memory) * len(moves) ** 2 * sites**2 <= _KEPT_VALUES
        self._kept: dict[_Block, Tensor] = {}

    def moved(self, block: _Block) -> Tensor:
        """The part of the memory that lies beside the image, (block, 3, rows, columns)."""
        return block._replace(down=-block.down, across=-block.across).inside(self.memory[block.start : block.stop])

    def windowed(self, values: Tensor, band: Tensor) -> Tensor:
        """Weighted sums of maps, (..., h, w), over every window of the size of a patch."""
        height, width = values.shape[-2:]
        return self._cut(band, height) @ values @ self._cut(band, width).mT

    def spread(self, values: Tensor, band: Tensor) -> Tensor:
        """Weighted sums of values of sites, (..., h, w), over the patches that cover a cell."""
        height, width = (side + self.shape.patch - 1 for side in values.shape[-2:])
        return self._cut(band, height).mT @ values @ self._cut(band, width)

    def _cut(self, band: Tensor, length: int) -> Tensor:
        return band[: length - self.shape.patch + 1, :length]

    def logits(self, block: _Block) -> Tensor:
        """``-|patch - m|^2 / (2 sigma^2)``, (block, h, w), at the sites where the block has patches."""
        if block in self._kept:
            return self._kept[block]
        squares = (block.inside(self.cells) - self.moved(block)).square_().sum(1)
        logits = self.windowed(squares, self.summing).mul_(-0.5 / self.sigma / self.sigma)
        if self._keeps:
            self._kept[block] = logits
        return logits

    @cached_property
    def evidence(self) -> tuple[Tensor, Tensor]:
        """The largest logit at each site, and the sum of all weights divided by its weight, (sites, sites) each.

        They are kept apart, since their common logarithm would lose the digits that the weights need.
        """
        peaks, sums = [], []
        for block in self.blocks:
            logits = self.logits(block)
            peak = logits.amax(0)
            peaks.append(F.pad(peak, block.margins, value=-math.inf))
            sums.append(F.pad((logits - peak).clamp_min_(_MIN_LOGIT).exp_().sum(0), block.margins))
        stacked = torch.stack(peaks)
        highest = stacked.amax(0)
        return highest, ((stacked - highest).exp() * torch.stack(sums)).sum(0)

    def weights(self, block: _Block) -> Tensor:
        """Weights of the memory patches of a block, (block, h, w); all blocks together sum to 1 at each site."""
        highest, total = (block.inside(part) for part in self.evidence)
        return (self.logits(block) - highest).clamp_min_(_MIN_LOGIT).exp_() / total

    @cached_property
    def coverage(self) -> Tensor:
        """Sum of the weights of the patches that cover each cell, (side, side)."""
        return self.spread(torch.ones_like(self.evidence[0]), self.blending)

    def gathered(self, block: _Block, values: Tensor, band: Tensor) -> Tensor:
        """Add up the memory patches of a block, times values of their sites, (block, h, w), as an image."""
        return F.pad((self.spread(values, band)[:, None] * self.moved(block)).sum(0), block.margins)

    def mean(self) -> Tensor:
        """The posterior mean, (3, side, side)."""
        total = torch.zeros_like(self.cells)
        for block in self.blocks:
            total += self.gathered(block, self.weights(block), self.blending)
        return total / self.coverage

    def gradient(self, outer: Tensor) -> Tensor:
        """Gradient in the cells of the sum of ``outer`` times the posterior mean.

        With the weights w_m and the patches of ``outer`` as g, the gradient of a patch is
        ``sum_m w_m (<m, g> - sum_n w_n <n, g>) m / sigma^2``.
        """
        outer = outer / self.coverage

        def along(block: _Block) -> Tensor:
            return self.windowed((self.moved(block) * block.inside(outer)).sum(1), self.blending)

        mean = torch.zeros_like(self.evidence[0])
        for block in self.blocks:
            block.inside(mean).add_((self.weights(block) * along(block)).sum(0))
        total = torch.zeros_like(self.cells)
        for block in self.blocks:
            total += self.gathered(block, self.weights(block) * (along(block) - block.inside(mean)), self.summing)
        return total / self.sigma / self.sigma


class _PosteriorMean(torch.autograd.Function):
    """The posterior mean with its gradient, which compares again in place of keeping all weights."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, sigma: float, memory: Tensor, shape: PatchShape) -> Tensor:
        ctx.save_for_backward(cells, memory)
        ctx.sigma, ctx.shape = sigma, shape
        return _Comparison(cells, sigma, memory, shape).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        cells, memory = ctx.saved_tensors
        return _Comparison(cells, ctx.sigma, memory, ctx.shape).gradient(outer), None, None, None


def posterior_mean(cells: Tensor, sigma: float, memory: Tensor, shape: PatchShape) -> Tensor:
    """Estimate an image from its noisy cells: the mean of the memory patches, given the patches of the image.

    Args:
        cells: Noisy image, (3, side, side).
        sigma: Noise level of a cell, at least 1e-6.
        memory: Normal images, (n, 3, side, side), of the same type and device.
        shape: Size of the patches, and which are compared.

    Returns:
        The image, (3, side, side), differentiable in ``cells``. Overlapping patches are averaged.

    Example:
        >>> image, memory = torch.zeros(3, 8, 8), torch.ones(2, 3, 8, 8)
        >>> posterior_mean(image, 0.1, memory, PatchShape(side=8, patch=3, reach=1)).mean()
        tensor(1.)
    """
    if torch.is_grad_enabled() and cells.requires_grad:
        return cast(Tensor, _PosteriorMean.apply(cells, sigma, memory, shape))  # type: ignore[no-untyped-call]
    return _Comparison(cells, sigma, memory, shape).mean()


def _band(shape: PatchShape, weights: list[float], like: Tensor) -> Tensor:
    """Matrix, (sites, side), whose product sums each run of cells as long as a patch with weights."""
    band = torch.zeros(shape.side - shape.patch + 1, shape.side, dtype=like.dtype, device=like.device)
    for index, weight in enumerate(weights):
        band.diagonal(index).fill_(weight)
    return band
