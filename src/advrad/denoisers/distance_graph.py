"""Distances to the nearest memory patch as a plain graph, for export: without searches, tables and loops over images.

The patches that are compared with the same memory patches form a group, and each group is one matrix product. Its
factors are differences from the mean memory patch of the group: they are small, so little cancels. The product finds
the nearest memory patch; the distance to it is then computed from their difference, as in PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.distance_groups import PatchGroups
from advrad.denoisers.distance_rows import row_winners, suits_rows
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_bounds import distance
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
    patches = _patches(cells, config, config.rows, config.columns)  # (L, b, d)
    starts = _winners(config, sheets.contiguous(), cells, patches, chosen)  # (b, L)
    memory = read_patches(config, sheets.contiguous(), starts)[:, :, None] * config.weights().sqrt().to(cells)
    return distance(patches.transpose(0, 1), memory, config.gain).reshape(-1, 1, *config.sites)


def _winners(config: MemoryConfig, sheets: Tensor, cells: Tensor, patches: Tensor, chosen: Tensor | None) -> Tensor:
    """Where the nearest memory patch of every patch starts in the flattened memory, (b, L)."""
    if chosen is not None:
        entries = _nearest(patches, _chosen(sheets, config, chosen), config)[1]  # (L, b)
        return chosen.long().gather(1, entries).T
    window = config.window_cells
    if window is None:
        memory = _everywhere(sheets, config)[None]
        step = max(1, _AT_ONCE // memory.shape[2])
        parts = [_nearest(part.flatten(0, 1)[None], memory, config)[1] for part in torch.split(patches, step)]
        entries = torch.cat(parts, 1).view(len(patches), -1)
        places, across = entries // len(sheets), sheets.shape[3] - config.patch_cells + 1
        first = places // across * sheets.shape[3] + places % across
        return (entries % len(sheets) * sheets[0].numel() + first).T
    if suits_rows(config):
        return row_winners(config, sheets, cells, window)
    return _grouped(config, sheets, patches, PatchGroups.of(config, window))


def _grouped(config: MemoryConfig, sheets: Tensor, patches: Tensor, groups: PatchGroups) -> Tensor:
    """The winners where patches are compared within a window, by groups."""
    size = patches.shape[2]
    queries = groups.queries.to(patches.device)  # (S, Q)
    around = F.pad(patches, (0, 0, 0, 0, 0, 1)).index_select(0, queries.flatten())  # the last one stands for none
    around = around.view(*queries.shape, -1, size).flatten(1, 2)  # (S, Q b, d)
    squares, entries = _nearest(around, groups.memory(sheets, config), config, groups.beyond.to(patches))
    first = groups.starts.to(patches.device).gather(1, entries // len(sheets))
    starts = entries % len(sheets) * sheets[0].numel() + first
    # Every patch is part of several groups.
    pairs = groups.pairs.to(patches.device)
    squares, starts = (
        part.view(queries.numel(), -1).index_select(0, pairs.flatten()).view(*pairs.shape, -1)
        for part in (squares, starts)
    )
    best = squares.topk(1, 1, largest=False).indices
    return starts.gather(1, best)[:, 0].T


def _nearest(
    queries: Tensor, memory: Tensor, config: MemoryConfig, beyond: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nearest memory patches.

    Args:
        queries: Patches, (s, q, d), times the roots of the weights.
        memory: Memory patches that each is compared with, (s, d, n), times the roots of the weights.
        config: Settings.
        beyond: Added to squared distances, (s, Q, P), for Q patches of every image and P places, n / P sheets each.

    Returns:
        Squared distances and numbers of the memory patches, (s, q) each.
    """
    middle = memory.mean(2, keepdim=True)  # (s, d, 1)
    centred, queries = memory - middle, queries - middle.mT
    products = queries @ centred
    squares = centred.square().sum(1, keepdim=True) - 2 * products
    if config.gain:
        # |q - g m|^2 with q = m + d and g = 1 + t is |d|^2 - 2 t <d, m> + t^2 |m|^2, least at t = <d, m> / |m|^2. With
        # the middle c, q = c + q' and m = c + m': <d, m> = <q', m'> + <q', c> - <m', m>.
        size = memory.square().sum(1, keepdim=True).clamp_min(1e-12)
        along = products + (queries @ middle - (centred * memory).sum(1, keepdim=True))
        change = (along / size).clamp(-config.gain, config.gain)
        squares = squares - change * (2 * along - change * size)
    if beyond is not None:
        shape = squares.shape
        parts = squares.view(shape[0], beyond.shape[1], -1, beyond.shape[2], shape[2] // beyond.shape[2])
        squares = (parts + beyond[:, :, None, :, None]).view(shape)
    least, entries = squares.topk(1, 2, largest=False)
    return least[..., 0] + queries.square().sum(2), entries[..., 0]


def _patches(cells: Tensor, config: MemoryConfig, rows: list[int], columns: list[int]) -> Tensor:
    """Patches of sheets, (b, c, H, W), times the roots of the weights, (L, b, d)."""
    side = range(config.patch_cells)
    down, over = (torch.tensor([at + step for at in starts for step in side]) for starts in (rows, columns))
    cut = cells.index_select(2, down.to(cells.device)).index_select(3, over.to(cells.device))
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
        read = (
            sheets.flatten(1).index_select(0, (chosen.long() // size).flatten()).view(*chosen.shape, size).float() / 255
        )
    else:
        read = read_patches(config, sheets, chosen.long())
    return (read * config.weights().sqrt().to(read)).mT
