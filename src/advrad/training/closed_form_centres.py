"""Centres that stand for many patches of normal images: a small memory that covers what many images show.

The mean of similar patches has less noise than each of them, so normal patches are nearer to it. Centres mix images,
so none of these can be left out of the memory: the images that set the threshold must not be among them.

Source: Lloyd's algorithm (k-means), on patches times the roots of their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_table import read_patches
from advrad.utils.extremes import place_of_least

#: Patches from which each centre is computed, on average, if there are as many.
PATCHES_PER_CENTRE = 40
#: Rounds in which patches are assigned to centres and centres are moved, for all patches together and for each site.
_ROUNDS, _ROUNDS_BY_SITE = 2, 3
#: Distances that are computed at once.
_AT_ONCE = 1 << 20


def centres_of(patches: Tensor, config: MemoryConfig, count: int, generator: torch.Generator) -> Tensor:
    """Compute centres of patches, for a memory without a window.

    Args:
        patches: Patches, (m, c, k, k) uint8.
        config: Shape of the patches, with their weights.
        count: Number of centres; no more than there are patches.
        generator: Source of the draw of the first centres.

    Returns:
        Centres, (count, c, k, k) uint8.

    Example:
        >>> config = MemoryConfig(height_cells=3, width_cells=3, channels=1, patch_cells=1, window_cells=None)
        >>> patches = torch.tensor([10, 12, 200, 202], dtype=torch.uint8).view(4, 1, 1, 1)
        >>> centres_of(patches, config, 2, torch.Generator().manual_seed(1)).flatten().sort().values
        tensor([ 11, 201], dtype=torch.uint8)
    """
    roots = config.weights().sqrt().float()
    values = patches.flatten(1).float() * roots
    first = values[torch.randperm(len(values), generator=generator)[:count]]
    return _stored(_moved(values[None], first[None], _ROUNDS)[0] / roots, config)


def centres_by_site(
    sheets: Tensor, config: MemoryConfig, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Compute centres for each site from the patches in its window, for a memory with a window.

    Args:
        sheets: Sheets of normal images, (n, c, H, W) uint8.
        config: Shape of the patches, with a window.
        count: Number of centres of each site; there are no more than patches in its window.
        generator: Source of all draws.

    Returns:
        Centres, (L * count, c, k, k) uint8, and where those of each site start in them when flattened, (L, count)
        int32.
    """
    roots, found = config.weights().sqrt().float(), []
    for row in config.rows:
        starts = torch.stack([_starts(sheets, config, (row, column), count, generator) for column in config.columns])
        values = read_patches(config, sheets, starts) * (255 * roots)
        middle = values.mean(1, keepdim=True)
        values -= middle
        found.append((_moved(values, values[:, :count].clone(), _ROUNDS_BY_SITE) + middle) / roots)
    centres = torch.cat(found)
    sites, count, size = centres.shape
    places = torch.arange(sites * count, dtype=torch.int32) * size
    return _stored(centres, config), places.view(sites, count)


def _starts(
    sheets: Tensor, config: MemoryConfig, place: tuple[int, int], count: int, generator: torch.Generator
) -> Tensor:
    """Where the patches in the window of a site start in the flattened sheets, in random order, as many as needed."""
    ends = config.height_cells - config.patch_cells, config.width_cells - config.patch_cells
    reaches = config.window_cells or ends
    rows, columns = (
        torch.arange(-reach, reach + 1).add(here).clamp(0, end)
        for here, reach, end in zip(place, reaches, ends, strict=True)
    )
    of = torch.arange(len(sheets)) * sheets[0].numel()
    starts = (of[:, None, None] + rows[:, None] * config.width_cells + columns).flatten()
    order = torch.randperm(len(starts), generator=generator)[: count * PATCHES_PER_CENTRE]
    return starts[order]


def _moved(values: Tensor, centres: Tensor, rounds: int) -> Tensor:
    """Move centres, (s, k, d), to the means of the values, (s, m, d), that are nearest to them, in several rounds."""
    step = max(1, _AT_ONCE // (len(centres) * centres.shape[1]))
    for _ in range(rounds):
        squares = centres.square().sum(2)[:, None]
        # Written in place: results in a list, between the freed distances, would keep the allocator from using these
        # again, and 12,000 centres took 20 GB.
        nearest = torch.empty(values.shape[:2], dtype=torch.long)  # (s, m)
        for part, found in zip(torch.split(values, step, 1), torch.split(nearest, step, 1), strict=True):
            found.copy_(place_of_least(torch.baddbmm(squares, part, centres.mT, alpha=-2)))
        sums = torch.zeros_like(centres).scatter_add_(1, nearest[..., None].expand_as(values), values)
        members = torch.zeros_like(squares[:, 0]).scatter_add_(1, nearest, torch.ones_like(values[..., 0]))
        centres = torch.where(members[..., None] > 0, sums / members.clamp_min(1)[..., None], centres)
    return centres


def _stored(centres: Tensor, config: MemoryConfig) -> Tensor:
    """Centres, (..., d) in 0 to 255, as the memory stores them, (n, c, k, k) uint8."""
    side = config.patch_cells
    return centres.round().clamp(0, 255).to(torch.uint8).view(-1, config.channels, side, side)
