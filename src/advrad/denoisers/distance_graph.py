"""Distances to the nearest memory patch as a plain graph, for export: without searches, tables and loops over images.

The patches that are compared with the same memory patches form a group, and each group is one matrix product. Its
factors are differences from the mean memory patch of the group: they are small, so little cancels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.distance_groups import PatchGroups
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_table import read_patches

#: Distances that are computed at once: few enough to stay in the processor's cache.
_AT_ONCE = 1 << 20


def graph_distances(config: MemoryConfig, sheets: Tensor, cells: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Compute the distance of every patch to the memory.

    Args:
        config: Shape of the patches.
        sheets: Memory, (n, c, H, W) uint8, cells times 255; with a window, of the size of the sheets to compare, unless
            ``chosen`` is given.
        cells: Sheets to compare, (b, c, H, W) float in [0, 1].
        chosen: Where the memory patches of each patch start in the flattened memory, (L, k); None for all nearby.

    Returns:
        Distances, (b, 1, sites down, sites across).

    Example:
        >>> from advrad.denoisers.memory_config import MemoryConfig
        >>> config = MemoryConfig(height_cells=8, width_cells=8, patch_cells=3, window_cells=(1, 1))
        >>> memory = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> graph_distances(config, memory, torch.full((1, 3, 8, 8), 0.5)).mean()
        tensor(0.5000)
    """
    sheets = sheets.contiguous()
    if chosen is None and config.window_cells is not None:
        squares = _grouped(config, sheets, cells, PatchGroups.of(config, config.window_cells))
    else:
        patches = _patches(cells, config, config.rows, config.columns)  # (L, b, d)
        if chosen is None:
            memory = _everywhere(sheets, config)[None]
            step = max(1, _AT_ONCE // memory.shape[2])
            parts = [_squares(part.flatten(0, 1)[None], memory, config).amin(2) for part in torch.split(patches, step)]
            squares = torch.cat(parts, 1).view(len(patches), -1)
        else:
            squares = _squares(patches, _chosen(sheets, config, chosen), config).amin(2)
        squares = squares.T
    return squares.clamp_min(0).sqrt().reshape(-1, 1, *config.sites)


def _grouped(config: MemoryConfig, sheets: Tensor, cells: Tensor, groups: PatchGroups) -> Tensor:
    """Squared distances where patches are compared within a window, (b, L)."""
    patches = _patches(cells, config, config.rows, config.columns)
    sites, _, size = patches.shape
    queries = groups.queries.to(cells.device)  # (S, Q)
    around = F.pad(patches, (0, 0, 0, 0, 0, 1))[queries.flatten()]  # the last one stands for none
    around = around.view(*queries.shape, -1, size).flatten(1, 2)  # (S, Q b, d)
    squares = _squares(around, groups.memory(sheets, config), config)
    beyond = groups.beyond.to(cells)  # (S, Q, P)
    squares = squares.view(*queries.shape, -1, beyond.shape[2], len(sheets)) + beyond[:, :, None, :, None]
    least = squares.flatten(3).amin(3).flatten(0, 1)  # (S Q, b)
    pairs = groups.pairs.to(cells.device)
    return least[pairs.flatten()].view(*pairs.shape, -1).amin(1).view(sites, -1).T


def _squares(queries: Tensor, memory: Tensor, config: MemoryConfig) -> Tensor:
    """Squared distances of patches, (s, q, d), from memory patches, (s, d, n), both times roots of weights."""
    middle = memory.mean(2, keepdim=True)  # (s, d, 1)
    centred, queries = memory - middle, queries - middle.mT
    products = queries @ centred
    own, squares = queries.square().sum(2, keepdim=True), centred.square().sum(1, keepdim=True)
    found = own + (squares - 2 * products)
    if not config.gain:
        return found
    # |q - g m|^2 with q = m + d and g = 1 + t is |d|^2 - 2 t <d, m> + t^2 |m|^2, least at t = <d, m> / |m|^2. With the
    # middle c, q = c + q' and m = c + m': <d, m> = <q', m'> + <q', c> - <m', m>.
    size = memory.square().sum(1, keepdim=True).clamp_min(1e-12)
    along = products + (queries @ middle - (centred * memory).sum(1, keepdim=True))
    change = (along / size).clamp(-config.gain, config.gain)
    return found - change * (2 * along - change * size)


def _patches(cells: Tensor, config: MemoryConfig, rows: list[int], columns: list[int]) -> Tensor:
    """Patches of sheets, (b, c, H, W), times the roots of the weights, (L, b, d)."""
    side = range(config.patch_cells)
    down, over = (torch.tensor([at + step for at in starts for step in side]) for starts in (rows, columns))
    cut = cells[:, :, down.to(cells.device)][:, :, :, over.to(cells.device)]
    cut = cut.view(-1, config.channels, len(rows), len(side), len(columns), len(side)).permute(2, 4, 0, 1, 3, 5)
    return cut.flatten(3).flatten(0, 1) * config.weights().sqrt().to(cells)


def _everywhere(sheets: Tensor, config: MemoryConfig) -> Tensor:
    """All memory patches times the roots of the weights, (d, n)."""
    height, width = (side - config.patch_cells + 1 for side in sheets.shape[2:])
    patches = _patches(sheets.float() / 255, config, list(range(height)), list(range(width)))
    return patches.flatten(0, 1).T


def _chosen(sheets: Tensor, config: MemoryConfig, chosen: Tensor) -> Tensor:
    """The memory patches that were chosen for each patch, times the roots of the weights, (L, d, k)."""
    size = config.channels * config.patch_cells**2
    if sheets[0].numel() == size:  # every sheet is a patch
        read = sheets.flatten(1)[(chosen.long() // size).flatten()].view(*chosen.shape, size).float() / 255
    else:
        read = read_patches(config, sheets, chosen.long())
    return (read * config.weights().sqrt().to(read)).mT
