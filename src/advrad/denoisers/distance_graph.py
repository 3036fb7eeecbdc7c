"""Distances to the nearest memory patch as a plain graph, for export: without searches, tables and loops over images.

Each displacement within the window is compared on its own. The weights of a patch are products of weights down and
across, so weighted sums over all patches are products with two band matrices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.patch_table import read_patches
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from advrad.denoisers.memory_config import MemoryConfig

#: Stands for an infinite squared distance, which some runtimes do not have.
_FAR = 1e30


def graph_distances(config: MemoryConfig, sheets: Tensor, cells: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Compute the distance of every patch to the memory.

    Args:
        config: Shape of the patches; with a window.
        sheets: Memory, (n, c, H, W) uint8, cells times 255.
        cells: Sheets to compare, (b, c, H, W) float in [0, 1].
        chosen: Where the memory patches of each patch start in the flattened memory, (L, k); None for all nearby.

    Returns:
        Distances, (b, 1, sites down, sites across).

    Raises:
        ConfigError: The patches are compared everywhere; that graph would be too large.

    Example:
        >>> from advrad.denoisers.memory_config import MemoryConfig
        >>> config = MemoryConfig(height_cells=8, width_cells=8, patch_cells=3, window_cells=(1, 1))
        >>> memory = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> graph_distances(config, memory, torch.full((1, 3, 8, 8), 0.5)).mean()
        tensor(0.5000)
    """
    if config.window_cells is None:
        raise ConfigError(
            "a detector that compares patches everywhere cannot be exported as a graph; export it for PyTorch"
        )
    if chosen is not None:
        return _chosen_distances(config, sheets, cells, chosen)
    memory = sheets.contiguous().to(cells) / 255
    reach_down, reach_across = config.window_cells
    weights = _side_weights(config)
    best: Tensor | None = None
    for down in range(-reach_down, reach_down + 1):
        for across in range(-reach_across, reach_across + 1):
            # Sites of the image whose memory patches lie inside.
            rows = [row for row in config.rows if 0 <= row + down <= config.height_cells - config.patch_cells]
            columns = [col for col in config.columns if 0 <= col + across <= config.width_cells - config.patch_cells]
            if not rows or not columns:
                continue
            over_rows = _band([row + down for row in rows], config.height_cells, weights, cells)
            over_columns = _band([col + across for col in columns], config.width_cells, weights, cells)
            squares = _squares(_shifted(cells, down, across), memory, config.gain, over_rows, over_columns)
            before = config.columns.index(columns[0]), config.rows.index(rows[0])
            after = len(config.columns) - before[0] - len(columns), len(config.rows) - before[1] - len(rows)
            squares = F.pad(squares, (before[0], after[0], before[1], after[1]), value=_FAR)
            best = squares if best is None else torch.minimum(best, squares)
    if best is None:
        raise ConfigError("no memory patch lies within the window of a patch")
    return best.clamp_min(0).sqrt()[:, None]


def _chosen_distances(config: MemoryConfig, sheets: Tensor, cells: Tensor, chosen: Tensor) -> Tensor:
    """Distances to the nearest of the memory patches that were chosen for each patch."""
    roots = config.weights().sqrt().to(cells)
    memory = read_patches(config, sheets.contiguous(), chosen.long()) * roots  # (L, k, d)
    across = config.width_cells
    corners = torch.tensor([row * across + column for row in config.rows for column in config.columns])
    side = torch.arange(config.patch_cells)
    square = (side[:, None] * across + side).flatten()
    within = (torch.arange(config.channels)[:, None] * (config.height_cells * across) + square).flatten()
    places = (corners[:, None] + within).to(cells.device)
    patches = (cells.flatten(1)[:, places] * roots).transpose(0, 1)  # (L, b, d)
    # Differences from the mean patch are small, so little cancels.
    middle = memory.mean(1, keepdim=True)
    centred, queries = memory - middle, patches - middle
    squares = queries.square().sum(2, keepdim=True) - 2 * queries @ centred.mT + centred.square().sum(2)[:, None]
    if config.gain:
        # |q - g m|^2 with q = m + d and g = 1 + t is |d|^2 - 2 t <d, m> + t^2 |m|^2, least at t = <d, m> / |m|^2.
        size = memory.square().sum(2)[:, None]
        along = queries @ memory.mT - (centred * memory).sum(2)[:, None]
        change = (along / size.clamp_min(1e-12)).clamp(-config.gain, config.gain)
        squares = squares - 2 * change * along + change * change * size
    least = squares.amin(2).clamp_min(0).sqrt()
    return least.T.reshape(-1, 1, *config.sites)


def _squares(cells: Tensor, memory: Tensor, gain: float, over_rows: Tensor, over_columns: Tensor) -> Tensor:
    """Least squared distances over the memory at one displacement, (b, sites down, sites across)."""

    def windowed(values: Tensor) -> Tensor:
        return over_rows @ values @ over_columns.mT

    difference = cells[:, None] - memory
    squares = windowed(difference.square().mean(2))
    if gain:
        # |q - g m|^2 with q = m + d and g = 1 + t is |d|^2 - 2 t <d, m> + t^2 |m|^2, least at t = <d, m> / |m|^2.
        along, size = windowed((difference * memory).mean(2)), windowed(memory.square().mean(1))
        change = (along / size.clamp_min(1e-12)).clamp(-gain, gain)
        squares = squares - 2 * change * along + change * change * size
    return squares.amin(1)


def _shifted(cells: Tensor, down: int, across: int) -> Tensor:
    """Move sheets, (b, c, H, W), down and to the right; zeros follow."""
    height, width = cells.shape[2:]
    kept = cells[:, :, max(0, -down) : height - max(0, down), max(0, -across) : width - max(0, across)]
    return F.pad(kept, (max(0, across), max(0, -across), max(0, down), max(0, -down)))


def _band(starts: list[int], length: int, weights: list[float], like: Tensor) -> Tensor:
    """Matrix, (sites, length), whose product is the weighted sum of the cells of each patch along one side.

    It is made of plain numbers, so that it becomes a constant of the graph.
    """
    rows = [[0.0] * start + weights + [0.0] * (length - start - len(weights)) for start in starts]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _side_weights(config: MemoryConfig) -> list[float]:
    """Weights along one side, with sum 1: those of a patch are their products, divided by the number of channels."""
    middle = config.patch_cells // 2
    flat = config.taper == "flat"
    side = [
        1.0 if flat else math.exp(-((place - middle) ** 2) / (2 * (config.patch_cells / 4) ** 2))
        for place in range(config.patch_cells)
    ]
    return [weight / sum(side) for weight in side]
