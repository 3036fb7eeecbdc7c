"""The memory's patches, arranged for matrix products: which patches are compared, and how exactly.

Squared distances are computed in float32 from products of q and m, which are differences from the mean patch of the
site: they are small, so that little cancels. :meth:`PatchTable.error` bounds their rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.utils.extremes import greatest_with_place

#: Patches of a query that are compared in one product, where all memory patches are compared.
_QUERIES = 128
#: Distances that are computed at once: few enough to stay in the processor's cache.
_AT_ONCE = 1 << 18
#: Sites whose memory patches are prepared at once, for the same reason.
_SITES = 128


@dataclass(frozen=True, slots=True)
class Winners:
    """The nearest memory patch of every patch, by squared distances in float32.

    Attributes:
        squared: Squared distances, (b, L).
        start: Where the patch starts in the flattened memory sheets, (b, L) int64.
        size: Largest size of what was compared, (b, L), for :meth:`PatchTable.error`. It grows at most by as much as
            the patch moves.
    """

    squared: Tensor
    start: Tensor
    size: Tensor

    def followed_by(self, others: Winners) -> Winners:
        """These winners, and those of further sheets."""
        parts = ((self.squared, others.squared), (self.start, others.start), (self.size, others.size))
        return Winners(*(torch.cat(part) for part in parts))


@dataclass(frozen=True, slots=True)
class PatchTable:
    """Memory patches by memory site; the memory has S sites, n patches at each.

    Attributes:
        factors: What a difference from ``middle`` is multiplied with: differences of the memory patches from
            ``middle``, times two, and one row for what does not depend on the patch; with a gain two rows, (S, d', n).
        middle: Mean patch of each site, times the roots of the weights, (S, d).
        squares: Squared norms of the differences of memory patches from ``middle``, (S, n).
        along: Products of these differences with ``middle``, (S, n).
        starts: Where the memory patches start in the flattened sheets, as two tensors to be added, (S, n or 1) and
            (1, n).
        centres: Largest norm of ``middle`` at the sites with which each patch of a sheet is compared, (L,).
        queries: Patches of a sheet that are compared with each site, (S, q); L stands for none, and is last.
        runs: Sites with the same number of such patches, which follow each other: the first, the end, the number.
        pairs: For each patch of a sheet, its comparisons: entries of the flattened (S, q), (L, o); S q for none.
        gain: Share by which a memory patch may be brighter or darker.
    """

    factors: Tensor
    middle: Tensor
    squares: Tensor
    along: Tensor
    starts: tuple[Tensor, Tensor]
    centres: Tensor
    queries: Tensor
    runs: tuple[tuple[int, int, int], ...]
    pairs: Tensor
    gain: float

    @classmethod
    def of(cls, config: MemoryConfig, sheets: Tensor, roots: Tensor, chosen: Tensor | None) -> PatchTable:
        """Cut the sheets of a memory, (n, c, H, W) uint8, into patches.

        Args:
            config: Shape of the patches.
            sheets: Sheets of cells times 255.
            roots: Roots of the weights of a patch, (d,).
            chosen: Where the memory patches of each patch of a sheet start in the flattened sheets, (L, k) integers;
                None for all within the window.
        """
        total = config.sites[0] * config.sites[1]
        if chosen is not None:
            blocks, starts = _chosen_patches(config, sheets, roots, chosen.long())
            queries = pairs = torch.arange(total)[:, None]
        elif config.window_cells is None:  # the queries are compared part by part
            blocks, starts = _all_patches(config, sheets, roots)
            parts = -(-total // _QUERIES)
            queries = F.pad(torch.arange(total), (0, parts * _QUERIES - total), value=total).view(parts, _QUERIES)
            pairs = torch.arange(total)[:, None]
        else:
            order, queries, pairs = _windows(config, config.window_cells)
            blocks, starts = _patches_by_site(config, sheets, roots, order.to(sheets.device))
        factors, middle, squares, along = _prepared(blocks, len(starts[0]), config.gain)
        # A single site serves all parts of the queries.
        factors, middle, squares, along, first = (
            part.expand(len(queries), *part.shape[1:]) if len(part) == 1 else part
            for part in (factors, middle, squares, along, starts[0])
        )
        runs = _runs(queries, total)
        queries, pairs = queries.to(sheets.device), pairs.to(sheets.device)
        centres = F.pad(middle.norm(dim=1).repeat_interleave(queries.shape[1]), (0, 1))[pairs].amax(1)
        return cls(factors, middle, squares, along, (first, starts[1]), centres, queries, runs, pairs, config.gain)

    def search(self, patches: Tensor, excluded: Tensor | None) -> Winners:
        """Find the nearest memory patch of every patch.

        Args:
            patches: Patches, (b, L, d), times the roots of the weights.
            excluded: Memory patches that do not count, (b, S or 1, n) bool; None for none.
        """
        batch = len(patches)
        sites, most = self.queries.shape
        padded = F.pad(self._with_room(patches).transpose(0, 1), (0, 0, 0, 0, 0, 1))  # (L + 1, b, d')
        squares = patches.new_full((sites * most + 1, batch), torch.inf)
        entries = torch.zeros(sites * most + 1, batch, dtype=torch.long, device=patches.device)
        sizes = patches.new_zeros(sites * most + 1, batch)
        by_site = [values[:-1].view(sites, most, batch) for values in (squares, entries, sizes)]
        out = None
        if excluded is not None:  # added to how near memory patches are, which takes half the time of a mask
            out = patches.new_zeros(excluded.shape).masked_fill_(excluded, -torch.inf).transpose(0, 1)[:, None]
        for chunk, width in self._chunks(batch):
            around = padded.index_select(0, self.queries[chunk, :width].flatten())  # (s q, b, d')
            nearness, own, size = self._nearness(chunk, around.view(-1, width * batch, around.shape[2]))
            if out is not None:
                nearness.view(-1, width, batch, nearness.shape[2]).add_(out if len(out) == 1 else out[chunk])
            nearest, entry = greatest_with_place(nearness)
            for values, found in zip(by_site, (own - nearest, entry, size), strict=True):
                values[chunk, :width] = found.view(-1, width, batch)
        pairs = self.pairs.flatten()
        least, choice = squares.index_select(0, pairs).view(*self.pairs.shape, batch).min(1)  # (L, b)
        chosen = self.pairs[:, :, None].expand(-1, -1, batch).gather(1, choice[:, None])[:, 0]
        entry = entries.gather(0, chosen)
        site = chosen.clamp_max(sites * most - 1) // most
        size = sizes.index_select(0, pairs).view(*self.pairs.shape, batch).amax(1)
        return Winners(least.T, self._start(site, entry).T, size.T)

    def error(self, size: Tensor) -> Tensor:
        """Bound the rounding error of squared distances, (b, L), by the size of what was compared, (b, L)."""
        unit = 2 * relative_error(self.middle.shape[1] + 5)  # three terms for the root in a norm, and its square
        if self.gain == 0:
            return unit * size.square()
        centre, gain = self.centres, self.gain
        return unit * ((1 + gain) * (size.square() + 4 * centre * size) + 2 * gain**2 * centre.square())

    def _chunks(self, batch: int) -> Iterator[tuple[slice, int]]:
        """Sites that are compared at once, with the number of patches that are compared with each."""
        for first, end, width in self.runs:
            step = max(1, _AT_ONCE // (batch * width * self.squares.shape[1]))
            for start in range(first, end, step):
                yield slice(start, min(start + step, end)), width

    def _with_room(self, patches: Tensor) -> Tensor:
        """Patches, (..., d), with room for what is multiplied with the last rows of the factors, (..., d')."""
        return F.pad(patches, (0, self.factors.shape[1] - self.middle.shape[1]), value=1.0)

    def _start(self, site: Tensor, entry: Tensor) -> Tensor:
        """Where memory patches start in the flattened sheets, by site and place at the site."""
        at_site, of_entry = self.starts
        first = at_site[site, entry] if at_site.shape[1] > 1 else at_site[site, 0]
        return first + (of_entry[0, entry] if of_entry.shape[1] > 1 else 0)

    def all_of(self, sites: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the patches of some sites with all of their memory patches.

        Args:
            sites: Numbers of the sites, (t,).
            patches: Patches at these sites, of p sheets, (t, p, d), times the roots of the weights.

        Returns:
            Squared distances, (t, p, o, n), infinite for none; and the memory sites that were compared, (t, o).
        """
        pairs = self.pairs[sites]  # (t, o)
        memory = pairs.clamp_max(self.queries.numel() - 1) // self.queries.shape[1]
        repeated = self._with_room(patches).repeat_interleave(pairs.shape[1], 0)
        nearness, own, _ = self._nearness(memory.flatten(), repeated)
        squared = torch.sub(own[..., None], nearness, out=nearness).view(*pairs.shape, *nearness.shape[1:])
        squared.masked_fill_((pairs == self.queries.numel())[..., None, None], torch.inf)  # (t, o, p, n)
        return squared.transpose(1, 2), memory

    def starts_of(self, memory: Tensor, order: Tensor) -> Tensor:
        """Where memory patches start in the flattened sheets.

        Args:
            memory: Memory sites, (t, o), as :meth:`all_of` returns them.
            order: Places in the flattened (o, n) of its distances, (t, p, k).
        """
        count = self.squares.shape[1]
        compared = memory[:, None].expand(-1, order.shape[1], -1)
        return self._start(compared.gather(2, order // count), order % count)

    def _nearness(self, sites: slice | Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compare patches with room, (s, p, d'), with all memory patches of s sites. The patches are overwritten.

        Returns:
            What remains of the squared distance below that to ``middle``, (s, p, n); the squared distance to
            ``middle``, (s, p), with a gain up to what is in the first part, too; and the size of what was compared,
            (s, p), see :meth:`error`.
        """
        squares, middle = self.squares[sites], self.middle[sites]
        queries = patches[..., : middle.shape[1]].sub_(middle[:, None])
        length, longest = torch.linalg.vector_norm(queries, dim=2), squares.amax(1, keepdim=True).sqrt()
        own = length.square()
        if self.gain == 0:
            return torch.bmm(patches, self.factors[sites]), own, length + longest
        # |q - (1 + t) m|^2 = |q - m|^2 - 2 t a + t^2 |m|^2 with a = (q - m) m is least at t = a / |m|^2. With the
        # middle c of the site, q = c + q' and m = c + m': a = q' m' + q' c - m' c - |m'|^2, and
        # |q - m|^2 = (|q'|^2 + 2 q' c) - (|m'|^2 + 2 m' c) - 2 a.
        along = self.along[sites]
        across = torch.bmm(queries, middle[..., None])
        patches[..., -2:-1] = across
        double = torch.bmm(patches, self.factors[sites])  # 2 a
        middle_square = middle.square().sum(1, keepdim=True)
        full = (squares + 2 * along + middle_square).clamp_min(1e-12)
        change = torch.mul(double, (0.5 / full)[:, None]).clamp_(-self.gain, self.gain)
        rest = torch.addcmul(double, change, full[:, None], value=-1)
        nearness = double.addcmul_(change, rest).add_((squares + 2 * along)[:, None])
        return nearness, own + 2 * across[..., 0], length + 2 * longest


@dataclass(frozen=True, slots=True)
class Searched:
    """Patches with the nearest memory patch of each.

    Attributes:
        table: The memory patches.
        patches: Patches of sheets, (b, L, d).
        exclude: Group that was left out for each sheet, (b,); None if none was.
        winners: The nearest memory patches, (b, L) each.
    """

    table: PatchTable
    patches: Tensor
    exclude: Tensor | None
    winners: Winners

    def winners_of(self, patches: Tensor, exclude: Tensor | None) -> Winners | None:
        """The winners of the same sheets, or of one of them, (1, L, d); None if these are others."""
        if self._same(slice(None), patches, exclude):
            return self.winners
        for row in range(len(self.patches)) if len(patches) == 1 else ():
            own = slice(row, row + 1)
            if self._same(own, patches, exclude):
                return Winners(self.winners.squared[own], self.winners.start[own], self.winners.size[own])
        return None

    def _same(self, rows: slice, patches: Tensor, exclude: Tensor | None) -> bool:
        if self.exclude is None or exclude is None:
            return self.exclude is exclude and torch.equal(patches, self.patches[rows])
        return torch.equal(exclude, self.exclude[rows]) and torch.equal(patches, self.patches[rows])


def read_patches(config: MemoryConfig, sheets: Tensor, starts: Tensor) -> Tensor:
    """Read memory patches, (..., d) float in [0, 1], by where they start in the flattened sheets, (...)."""
    channels, height, width = sheets.shape[1:]
    side = torch.arange(config.patch_cells, device=starts.device)
    square = (side[:, None] * width + side).flatten()
    within = (torch.arange(channels, device=starts.device)[:, None] * (height * width) + square).flatten()
    small = torch.int32 if sheets.numel() < 2**31 else torch.int64  # 32 bits take half the time
    places = starts.reshape(-1, 1).to(small) + within.to(small)
    read = sheets.flatten().index_select(0, places.flatten()).view(*starts.shape, len(within))
    return read.float() / 255


#: Memory patches by site, a part of the sites after the other, (s, d, n); and where they start in the flattened sheets,
#: see ``starts`` of :class:`PatchTable`.
_Patches = tuple[Iterable[Tensor], tuple[Tensor, Tensor]]


def _prepared(blocks: Iterable[Tensor], sites: int, gain: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``factors``, ``middle``, ``squares`` and ``along`` of memory patches, part by part of the sites."""
    prepared: tuple[Tensor, ...] = ()
    first = 0
    for block in blocks:
        middle = block.mean(2)
        count, size = middle.shape
        if not prepared:
            shapes = ((size + (2 if gain else 1), block.shape[2]), (size,), (block.shape[2],), (block.shape[2],))
            prepared = tuple(block.new_empty(sites, *shape) for shape in shapes)
        factors, middles, squares, along = (part[first : first + count] for part in prepared)
        middles.copy_(middle)
        centred = torch.sub(block, middle[:, :, None], out=factors[:, :size])
        torch.sum(centred.square(), 1, out=squares)
        torch.bmm(middle[:, None], centred, out=along[:, None])
        centred.mul_(2)
        if gain:
            factors[:, -2] = 2
            torch.add(along, squares, out=factors[:, -1]).mul_(-2)
        else:
            torch.neg(squares, out=factors[:, -1])
        first += count
    factors, middles, squares, along = prepared
    return factors, middles, squares, along


def _chosen_patches(config: MemoryConfig, sheets: Tensor, roots: Tensor, chosen: Tensor) -> _Patches:
    """Chosen memory patches by site; ``chosen`` says where they start, (L, k)."""
    blocks = ((read_patches(config, sheets, part) * roots).mT for part in torch.split(chosen, _SITES))
    return blocks, (chosen, chosen.new_zeros(1, 1))


def _all_patches(config: MemoryConfig, sheets: Tensor, roots: Tensor) -> _Patches:
    """All patches of the sheets at a single site."""
    at_place, of_sheet = _places(config, sheets)
    patches = F.unfold(sheets.float() / 255, config.patch_cells) * roots[:, None]
    table = patches.permute(1, 2, 0).flatten(1)[None]
    return [table], (at_place[:1, None] * 0, (at_place[:, None] + of_sheet).flatten()[None])


def _patches_by_site(config: MemoryConfig, sheets: Tensor, roots: Tensor, order: Tensor) -> _Patches:
    """All patches of the sheets by place; ``order`` numbers the places of the sites, (S,)."""
    at_place, of_sheet = _places(config, sheets)
    side, sites_across = config.patch_cells, config.width_cells - config.patch_cells + 1
    cells = (sheets.float() / 255).permute(2, 3, 1, 0).contiguous()  # (H, W, c, n): patches of all sheets at once
    cut = cells.unfold(0, side, 1).unfold(1, side, 1)  # (places down, places across, c, n, k, k)
    by_cell, weights = cut.permute(0, 1, 2, 4, 5, 3), roots.view(-1, side, side, 1)
    blocks = (
        (by_cell[part // sites_across, part % sites_across] * weights).flatten(1, 3)
        for part in torch.split(order, _SITES)
    )
    return blocks, (at_place[order][:, None], of_sheet[None])


def _places(config: MemoryConfig, sheets: Tensor) -> tuple[Tensor, Tensor]:
    """Where patches start in the flattened sheets: their places in a sheet, and the sheets."""
    count, channels, height, width = sheets.shape
    down, across = (side - config.patch_cells + 1 for side in (height, width))
    place = torch.arange(down * across, device=sheets.device)
    of_sheet = torch.arange(count, device=sheets.device) * (channels * height * width)
    return place // across * width + place % across, of_sheet


def _windows(config: MemoryConfig, window: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """List for each memory site the patches that are compared with it, and for each patch these comparisons.

    Returns:
        Places of the sites, those with the fewest patches first, (S,); and ``queries`` and ``pairs`` of a table.
    """
    height, width = (side - config.patch_cells + 1 for side in (config.height_cells, config.width_cells))
    near_rows = [[i for i, row in enumerate(config.rows) if abs(row - y) <= window[0]] for y in range(height)]
    near_columns = [[i for i, col in enumerate(config.columns) if abs(col - x) <= window[1]] for x in range(width)]
    total, across = config.sites[0] * config.sites[1], config.sites[1]
    near_place = [[i * across + j for i in rows for j in columns] for rows in near_rows for columns in near_columns]
    order = sorted(range(len(near_place)), key=lambda place: len(near_place[place]))
    queries = [near_place[place] for place in order]
    most = len(queries[-1])
    comparisons: list[list[int]] = [[] for _ in range(total)]
    for site, near in enumerate(queries):
        for slot, query in enumerate(near):
            comparisons[query].append(site * most + slot)
    widest, none = max(map(len, comparisons)), len(queries) * most
    padded = [near + [total] * (most - len(near)) for near in queries]
    pairs = torch.tensor([own + [none] * (widest - len(own)) for own in comparisons])
    return torch.tensor(order), torch.tensor(padded), pairs


def _runs(queries: Tensor, none: int) -> tuple[tuple[int, int, int], ...]:
    """Sites with the same number of patches to compare: the first, the end, and the number, where it is not 0."""
    found, first = [], 0
    for count, sites in groupby((queries != none).sum(1).tolist()):
        end = first + len(list(sites))
        found += [(first, end, count)] if count else []
        first = end
    return tuple(found)


def relative_error(terms: int) -> float:
    """Largest relative error of a float32 sum of so many products (Higham: n u / (1 - n u), u = 2^-24)."""
    unit = (terms + 4) * 2.0**-24
    return unit / (1 - unit)
