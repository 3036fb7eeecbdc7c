"""Cells of a turned frame: each the mean of an image over the cell's own area.

All weights of pixels are >= 0 and those of a cell sum to 1: what lies outside the image, or in the region of another
part, is replaced by a mean along the border of the image. So a perturbation of at most eps in every pixel moves a cell
by at most eps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx import is_in_onnx_export

from advrad.data.resize_norm import ROUNDING
from advrad.detectors.registration_config import RegisteredConfig
from advrad.detectors.views import channel_norm


class CellSampler(nn.Module):
    """Averages an image over the cells of turned frames. Positions are counted in cells from the centre of the image.

    Args:
        config: Settings.
    """

    edge: Tensor

    def __init__(self, config: RegisteredConfig) -> None:
        super().__init__()
        self.config = config
        # Samples along one side of a cell: no further apart than pixels.
        self.count = math.ceil(config.cell_px / min(self.config.scale_x, self.config.scale_y) - 1e-6)
        size, width = config.size_px, max(config.size_px // 32, 1)
        edge = torch.ones(1, 1, size, size)
        edge[:, :, width : size - width, width : size - width] = 0
        self.register_buffer("edge", edge, persistent=False)

    def cells(
        self,
        square: Tensor,
        inside: Tensor | None,
        angles: Tensor,
        corner: tuple[Tensor, Tensor],
        shape: tuple[int, int],
    ) -> Tensor:
        """Average images over the cells of a part of a turned frame.

        Args:
            square: Images, (b, c, size, size).
            inside: 1 where the part may be, 0 in the regions of other parts, (size, size); None for 1 everywhere.
            angles: Angles of the frames in radians, (b,) float64.
            corner: Row and column of the centre of the first cell, each (b,), multiples of a half.
            shape: Number of rows and columns of cells.

        Returns:
            Cells, (b, c, rows, columns).
        """
        offsets = (torch.arange(self.count, dtype=torch.float64, device=square.device) + 0.5) / self.count - 0.5
        grid = self._grid(angles, corner, shape, offsets).to(square.dtype)
        if inside is not None:
            inside = inside.to(square.dtype)
        cells = self._mean(square if inside is None else square * inside, grid)
        branches = not is_in_onnx_export()  # a graph has none
        if inside is None and branches and float(grid.detach().abs().amax()) <= 1 - 1 / self.config.size_px:
            return cells
        cover = self._mean(torch.ones_like(square[:1, :1]) if inside is None else inside[None, None], grid)
        middles = self._grid(angles, corner, shape, offsets.new_zeros(1)).to(square.dtype)
        around = F.grid_sample(
            self._surroundings(square), middles, mode="bilinear", padding_mode="border", align_corners=False
        )
        return cells + (1 - cover).clamp_min(0) * around

    @property
    def terms(self) -> int:
        """Terms that are summed, one after the other, from the pixels of the square to a cell.

        Samples lie between four pixels, and a cell is the mean of some; what lies outside gets a colour of the border:
        a mean over a block, divided by the block's share of the border, or the mean of all blocks.
        """
        inside, blocks = 4 + self.count**2, self.config.fill_blocks
        around = 4 + 4 * (self.config.size_px // blocks) + 2 * blocks**2
        return 2 * inside + around + 4

    def back(self, cells: Tensor, angles: Tensor, corner: tuple[Tensor, Tensor]) -> Tensor:
        """Put values of cells back into the square.

        Args:
            cells: Values, (b, 1, rows, columns).
            angles: Angles of the frames in radians, (b,) float64.
            corner: Row and column of the centre of the first cell, each (b,).

        Returns:
            Values, (b, 1, size, size); minus infinity outside the cells.
        """
        size, unit = self.config.size_px, self.config.cell_px / (self.config.size_px / 2)
        places = (torch.arange(size, dtype=torch.float64, device=cells.device) + 0.5) / (size / 2) - 1
        y, x = places[:, None] * self.config.scale_y, places * self.config.scale_x
        cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
        row = (y * cos - x * sin) / unit - corner[0][:, None, None]
        column = (x * cos + y * sin) / unit - corner[1][:, None, None]
        rows, columns = cells.shape[2:]
        grid = torch.stack([(column + 0.5) / columns * 2 - 1, (row + 0.5) / rows * 2 - 1], -1)
        values = F.grid_sample(cells, grid.to(cells.dtype), mode="bilinear", padding_mode="border", align_corners=False)
        return values.masked_fill((grid.abs().amax(-1) > 1)[:, None], -torch.inf)

    def _grid(self, angles: Tensor, corner: tuple[Tensor, Tensor], shape: tuple[int, int], offsets: Tensor) -> Tensor:
        """Positions of samples, (b, rows * k, columns * k, 2), in half sides of the square; k offsets within a cell."""
        unit = self.config.cell_px / (self.config.size_px / 2)
        v, u = (
            ((first[:, None, None] + torch.arange(count, device=offsets.device)[:, None]) + offsets).flatten(1) * unit
            for first, count in zip(corner, shape, strict=True)
        )
        cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
        x = (u[:, None, :] * cos - v[:, :, None] * sin) / self.config.scale_x
        y = (u[:, None, :] * sin + v[:, :, None] * cos) / self.config.scale_y
        return torch.stack([x, y], -1)

    def _mean(self, values: Tensor, grid: Tensor) -> Tensor:
        """Interpolate between pixels, 0 outside the image, and average over cells."""
        values = values.expand(grid.shape[0], -1, -1, -1)
        fine = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return F.avg_pool2d(fine, self.count)

    def _surroundings(self, square: Tensor) -> Tensor:
        """Mean colours along the border, (b, c, blocks, blocks); inside, the mean of the whole border."""
        blocks = self.config.fill_blocks
        block = self.config.size_px // blocks
        # Along one side after the other, which rounds less than the sum of a whole block.
        sums, shares = (
            F.avg_pool2d(F.avg_pool2d(part, (1, block)), (block, 1)) for part in (square * self.edge, self.edge)
        )
        shares = shares.to(square.dtype)
        whole = sums.sum((2, 3), keepdim=True) / shares.sum()
        return torch.where(shares > 0, sums / shares.clamp_min(1e-6), whole)

    def l2_norm(self, angles: list[float], cells: int) -> float:
        """Bound the l2 norm of the map from square to cells, for any position.

        The norm is at most the root of the largest sum of the weights of a cell, 1, times the largest sum of the
        weights of a pixel. The latter is computed by the transposed map on a lattice of cells that covers the image.

        Args:
            angles: Angles of the frames in radians.
            cells: Number of cells of a sheet.
        """
        config = self.config
        diagonal = config.size_px / 2 * math.hypot(self.config.scale_x, self.config.scale_y)
        half = math.ceil(diagonal / config.cell_px) + 1
        offsets = (torch.arange(self.count, dtype=torch.float64) + 0.5) / self.count - 0.5
        largest, ones = 0.0, torch.ones(1, 1, config.size_px, config.size_px, requires_grad=True)
        # Sheets lie on whole cells if they have an odd number of them, else half way between.
        shifts = [-half + (shift - 1) / 2 for shift in (config.height_cells % 2, config.width_cells % 2)]
        corner = torch.tensor([shifts[0]], dtype=torch.float64), torch.tensor([shifts[1]], dtype=torch.float64)
        for angle in angles:
            grid = self._grid(
                torch.tensor([angle], dtype=torch.float64), corner, (2 * half + 2, 2 * half + 2), offsets
            ).float()
            with torch.enable_grad():
                total = self._mean(ones, grid).sum()
            largest = max(largest, float(torch.autograd.grad(total, ones)[0].max()))
        block = config.size_px // config.fill_blocks
        shares = F.avg_pool2d(self.edge, block) * block**2
        border = cells / float(shares[shares > 0].min())
        return math.sqrt(largest + border) * ROUNDING * channel_norm(config.channels)
