"""The memory's patches, arranged for matrix products: which patches are compared, and how exactly.

Squared distances are computed in float32 as ``|q|^2 + |m|^2 - 2 q m``, where q and m are differences from the mean
patch of the site: they are small, so that little cancels. Each result comes with a bound on its rounding error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig

#: Patches of a query that are compared in one product, where all memory patches are compared.
_QUERIES = 128
#: Distances that are computed at once: few enough to stay in the processor's cache.
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Winners:
    """The nearest memory patch of every patch, by squared distances in float32.

    Attributes:
        squared: Squared distances, (b, L).
        start: Where the patch starts in the flattened memory sheets, (b, L) int64.
        error: Largest error of the squared distances that were compared, (b, L).
    """

    squared: Tensor
    start: Tensor
    error: Tensor


@dataclass(frozen=True, slots=True)
class PatchTable:
    """Memory patches by memory site; the memory has S sites, n patches at each.

    Attributes:
        centred: Differences from ``middle``, times the roots of the weights, (S, d, n).
        middle: Mean patch of each site, (S, d).
        squares: Squared norms of ``centred``, (S, n).
        starts: Where the patches of a site start in a sheet, (S,), and each sheet in the flattened sheets, (n,).
        queries: Patches of a sheet that are compared with each site, (S, q); L stands for none.
        pairs: For each patch of a sheet, its comparisons: entries of the flattened (S, q), (L, o); S q for none.
    """

    centred: Tensor
    middle: Tensor
    squares: Tensor
    starts: tuple[Tensor, Tensor]
    queries: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, config: MemoryConfig, sheets: Tensor, roots: Tensor) -> PatchTable:
        """Cut the sheets of a memory, (n, c, H, W) uint8, into patches.

        Args:
            config: Shape of the patches.
            sheets: Sheets of cells times 255.
            roots: Roots of the weights of a patch, (d,).
        """
        count, channels, height, width = sheets.shape
        across = width - config.patch_cells + 1
        patches = F.unfold(sheets.float() / 255, config.patch_cells) * roots[:, None]  # (n, d, places)
        place = torch.arange(patches.shape[2], device=sheets.device)
        starts = place // across * width + place % across
        sheet_starts = torch.arange(count, device=sheets.device) * (channels * height * width)
        total = config.sites[0] * config.sites[1]
        if config.window_cells is None:  # all patches at one site; the queries are compared part by part
            table = patches.permute(1, 2, 0).flatten(1)[None]
            starts, sheet_starts = starts[:1] * 0, (starts[:, None] + sheet_starts).flatten()
            parts = -(-total // _QUERIES)
            queries = F.pad(torch.arange(total), (0, parts * _QUERIES - total), value=total).view(parts, _QUERIES)
            pairs = torch.arange(total)[:, None]
        else:
            table = patches.permute(2, 1, 0)
            queries, pairs = _windows(config, config.window_cells)
        middle = table.mean(2)
        centred = (table - middle[:, :, None]).contiguous()
        squares = centred.square().sum(1)
        if config.window_cells is None:
            centred, middle, squares = (
                part.expand(len(queries), *part.shape[1:]) for part in (centred, middle, squares)
            )
            starts = starts.expand(len(queries))
        to = sheets.device
        return cls(centred, middle, squares, (starts, sheet_starts), queries.to(to), pairs.to(to))

    def search(self, patches: Tensor, gain: float, excluded: Tensor | None) -> Winners:
        """Find the nearest memory patch of every patch.

        Args:
            patches: Patches, (b, L, d), times the roots of the weights.
            gain: Share by which a memory patch may be brighter or darker.
            excluded: Memory patches that do not count, (b, n) bool; None for none.
        """
        batch = len(patches)
        sites, width = self.queries.shape
        padded = F.pad(patches, (0, 0, 0, 1))
        values = patches.new_empty(batch, sites * width + 1)
        values[:, -1] = torch.inf
        where = torch.zeros(batch, sites * width + 1, dtype=torch.long, device=patches.device)
        errors = patches.new_zeros(batch, sites * width + 1)
        for chunk in self._chunks(batch):
            around = padded[:, self.queries[chunk]].transpose(0, 1)  # (s, b, q, d)
            squared, error = self.squared_distances(chunk, around.flatten(1, 2), gain)
            if excluded is not None:
                squared = squared.view(*around.shape[:3], -1).masked_fill_(excluded[:, None], torch.inf).flatten(1, 2)
            least, image = squared.min(2)
            into = slice(chunk.start * width, chunk.start * width + len(around) * width)

            def by_image(part: Tensor, shape: torch.Size = around.shape) -> Tensor:
                return part.view(shape[:3]).transpose(0, 1).flatten(1)

            values[:, into], errors[:, into] = by_image(least), by_image(error)
            where[:, into] = by_image(self.starts[0][chunk, None] + self.starts[1][image])
        found, choice = values[:, self.pairs].min(2)
        chosen = self.pairs.expand(batch, -1, -1).gather(2, choice[..., None])[..., 0]
        return Winners(found, where.gather(1, chosen), errors[:, self.pairs].amax(2))

    def _chunks(self, batch: int) -> Iterator[slice]:
        sites, width = self.queries.shape
        step = max(1, _AT_ONCE // (batch * width * self.squares.shape[1]))
        return (slice(start, min(start + step, sites)) for start in range(0, sites, step))

    def all_of(self, sites: Tensor, patches: Tensor, gain: float) -> tuple[Tensor, Tensor, Tensor]:
        """Compare some patches of one sheet with all of their memory patches.

        Args:
            sites: Numbers of the patches, (t,).
            patches: The patches themselves, (t, d).
            gain: Share by which a memory patch may be brighter or darker.

        Returns:
            Squared distances, (t, o n), infinite for none; where the memory patches start, same shape; and the largest
            error, (t,).
        """
        pairs = self.pairs[sites]  # (t, o)
        exists = pairs < self.queries.numel()
        memory = pairs.clamp_max(self.queries.numel() - 1) // self.queries.shape[1]
        parts, errors = [], []
        for site, patch in zip(memory, patches, strict=True):
            squared, error = self.squared_distances(site, patch.expand(len(site), 1, -1), gain)
            parts.append(squared[:, 0])
            errors.append(error.amax())
        squared = torch.where(exists[..., None], torch.stack(parts), torch.inf).flatten(1)
        starts = (self.starts[0][memory][..., None] + self.starts[1]).flatten(1)
        return squared, starts, torch.stack(errors)

    def squared_distances(self, sites: slice | Tensor, patches: Tensor, gain: float) -> tuple[Tensor, Tensor]:
        """Compare patches, (s, p, d), with all memory patches of s sites.

        Returns:
            Squared distances, (s, p, n), and the largest error of each in float32, (s, p).
        """
        centred, squares = self.centred[sites], self.squares[sites][:, None]
        middle = self.middle[sites][:, None]
        queries = patches - middle
        products = torch.bmm(queries, centred)
        own = queries.square().sum(2, keepdim=True)
        longest = squares.amax(2).sqrt()
        if gain == 0:
            size = own[..., 0].sqrt() + longest
            return products.mul_(-2).add_(own).add_(squares), 2 * relative_error(queries.shape[2]) * size * size
        # |q - g m|^2 is least at g = q m / m m. With the middle c of the site, q = c + q' and m = c + m', it is
        # |q' - g m' + (1 - g) c|^2, whose terms are small.
        middle_square = middle.square().sum(2, keepdim=True)
        along = torch.bmm(middle, centred)
        across = torch.bmm(queries, middle.mT)
        cross = products + along + across + middle_square
        best = (cross / (squares + 2 * along + middle_square).clamp_min(1e-12)).clamp(1 - gain, 1 + gain)
        less = 1 - best
        found = own + best * best * squares + less * less * middle_square
        found = found + 2 * (less * across - best * products - best * less * along)
        size = own[..., 0].sqrt() + (1 + gain) * longest + gain * middle_square[..., 0].sqrt()
        return found, 2 * relative_error(queries.shape[2]) * size * size


def _windows(config: MemoryConfig, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """List for each memory site the patches that are compared with it, and for each patch these comparisons."""
    height, width = (side - config.patch_cells + 1 for side in (config.height_cells, config.width_cells))
    near_rows = [[i for i, row in enumerate(config.rows) if abs(row - y) <= window[0]] for y in range(height)]
    near_columns = [[i for i, col in enumerate(config.columns) if abs(col - x) <= window[1]] for x in range(width)]
    total, across = config.sites[0] * config.sites[1], config.sites[1]
    queries = [[i * across + j for i in rows for j in columns] for rows in near_rows for columns in near_columns]
    most = max(map(len, queries))
    comparisons: list[list[int]] = [[] for _ in range(total)]
    for site, near in enumerate(queries):
        for slot, query in enumerate(near):
            comparisons[query].append(site * most + slot)
    widest, none = max(map(len, comparisons)), len(queries) * most
    padded = [near + [total] * (most - len(near)) for near in queries]
    return torch.tensor(padded), torch.tensor([own + [none] * (widest - len(own)) for own in comparisons])


def relative_error(terms: int) -> float:
    """Largest relative error of a float32 sum of so many products (Higham: n u / (1 - n u), u = 2^-24)."""
    unit = (terms + 4) * 2.0**-24
    return unit / (1 - unit)
