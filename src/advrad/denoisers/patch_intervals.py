"""Bounds of the distances of patches to the memory that hold for every perturbation of an image.

An image may be seen at several poses of a part: one sheet for each, much alike. Where every patch has many memory
patches, only the first sheet is compared with all of them; from it follow bounds at the other poses:

- from below: a distance changes by at most the distance between two patches, so
  ``S(p) >= S(p_first) - |p - p_first|``,
- from above: by the distance to any memory patch. Those are tried that won where the first sheet shows the same.

:meth:`PatchIntervals.refine` replaces them by exact bounds at the sites that matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advrad.denoisers.patch_bounds import distance, highest, lowest
from advrad.denoisers.patch_memory import PatchMemory
from advrad.denoisers.patch_table import relative_error

#: Memory patches of a site whose bounds are computed exactly; the others are bounded by the last of these.
_REFINED = 64
#: The nearest of these, whose bounds decide which of the others can matter.
_FIRST = 4
#: Sites that are refined at once.
_SITES = 32
#: Terms that are summed from the pixels of an image to a cell, at least as many are counted; for the bound on rounding.
LEAST_TERMS = 256


class PatchIntervals:
    """Distances of the patches of an image, and their bounds under every perturbation of at most eps in each cell.

    Args:
        memory: Memory.
        cells: Sheets of the image, (p, c, H, W) float in [0, 1]; the first is that of the unperturbed image.
        eps: Largest change of a cell, >= 0.
        exclude: Group to leave out of the memory, (1,) int64; None leaves out none.
        shifts: Where the first sheet shows what the other sheets show at their patches, less the place of the patch,
            (p - 1, L, 2) int64, rows and columns in cells; None if they show it at the same places. Wrong ones make
            the bounds wider, not wrong.
        length: Largest further change of a patch, >= 0, in the norm in which distances are measured.
        terms: Terms that are summed, one after the other, from the pixels of the image to a cell.

    Raises:
        DataError: A sheet has the wrong shape, or would be compared with nothing.

    Example:
        >>> from advrad.denoisers.memory_config import MemoryConfig
        >>> config = MemoryConfig(height_cells=3, width_cells=3, patch_cells=3)
        >>> memory = PatchMemory(config, torch.zeros(2, 3, 3, 3, dtype=torch.uint8), torch.arange(2))
        >>> found = PatchIntervals(memory, torch.full((1, 3, 3, 3), 0.5), 0.1)
        >>> found.refine(torch.tensor([0]))
        >>> [round(float(part), 2) for part in (found.lower, found.nearest, found.upper)]
        [0.4, 0.5, 0.6]
    """

    def __init__(
        self,
        memory: PatchMemory,
        cells: Tensor,
        eps: float,
        exclude: Tensor | None = None,
        shifts: Tensor | None = None,
        length: float = 0.0,
        terms: int = LEAST_TERMS,
    ) -> None:
        self._memory, self._eps, self._length = memory, eps, length
        with torch.no_grad():
            self._patches = memory.patches(cells)
            self._excluded = memory.excluded(exclude)
            first, gain = self._patches[:1], memory.config.gain
            winners = memory.search(first, exclude)
            searched = first
            if memory.chosen is not None and len(cells) > 1:
                at_others = memory.table.search(self._patches[1:], self._excluded)
                searched, winners = self._patches, winners.followed_by(at_others)
            nearest_patches = memory.read(winners.start[..., None])
            nearest = distance(searched, nearest_patches, gain)
            self._nearest = nearest[:1]
            moved = (self._patches - searched).norm(dim=2) * (1 + relative_error(first.shape[2]))
            self._error = memory.table.error(winners.size + moved + eps + length)
            self._slack = 4 * relative_error(max(terms, LEAST_TERMS) + first.shape[2])
            # The true distance may be less than the computed one by the error.
            self._lower = (nearest.square() - 2 * self._error).clamp_min(0).sqrt() - moved - eps
            reach = eps * memory.roots
            self._upper = torch.minimum(highest(searched, nearest_patches, gain, reach), nearest + eps)
            if len(searched) < len(cells):
                others = self._candidates(winners.start[0], len(cells) - 1, shifts)
                upper = [
                    highest(self._patches[place + 1][None], memory.read(starts)[None], gain, reach)
                    for place, starts in enumerate(others)
                ]
                self._upper = torch.cat([self._upper, *upper])
        self.refined = torch.zeros(first.shape[1], dtype=torch.bool, device=cells.device)

    @property
    def nearest(self) -> Tensor:
        """Distances of the first sheet to the nearest memory patch, (1, 1, sites down, sites across)."""
        return self._map(self._nearest)

    @property
    def lower(self) -> Tensor:
        """What no perturbation can make the distances fall below, (p, 1, sites down, sites across)."""
        return self._map((self._lower - self._length - self._slack * (1 + self._upper + self._length)).clamp_min(0))

    @property
    def upper(self) -> Tensor:
        """What no perturbation can make the distances exceed, (p, 1, sites down, sites across)."""
        # After a perturbation, a memory patch may be overlooked that is nearer by the error.
        upper = self._upper + self._length
        return self._map((upper.square() + 2 * self._error).sqrt() + self._slack * (1 + upper))

    def refine(self, sites: Tensor) -> None:
        """Make the bounds of some sites exact in all sheets.

        With gain 0 they are attained then, up to rounding, except that ``lower`` may be lower where many memory patches
        are about equally near.

        Args:
            sites: Numbers of the sites, (t,) int64.
        """
        with torch.no_grad():
            for part in torch.split(sites, _SITES) if len(sites) else ():  # splitting nothing gives an empty part
                low, high = self._exact(part)
                self._lower[:, part] = torch.maximum(self._lower[:, part], low)
                self._upper[:, part] = torch.minimum(self._upper[:, part], high)
                self.refined[part] = True

    def _exact(self, sites: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds at some sites, (p, t) each, from the nearest memory patches."""
        memory, eps = self._memory, self._eps
        gain, reach = memory.config.gain, eps * memory.roots
        patches = self._patches[:, sites].transpose(0, 1).contiguous()  # (t, p, d)
        squared, compared = memory.table.all_of(sites, patches.clone())
        if self._excluded is not None:
            left_out = self._excluded[0]
            squared.masked_fill_(left_out if len(left_out) == 1 else left_out[compared][:, None], torch.inf)
        squared = squared.flatten(2)
        count, error = squared.shape[2], self._error[:, sites].T[..., None]
        values, order = squared.topk(min(_REFINED + 1, count), dim=2, largest=False)
        least = (values - error).clamp_min(0).sqrt() - eps  # of each memory patch
        beyond = least[..., -1] if count > _REFINED else torch.full_like(least[..., 0], torch.inf)
        least, order = least[..., :_REFINED], order[..., :_REFINED]
        starts = memory.table.starts_of(compared, torch.where(least.isinf(), order[..., :1], order))
        first = memory.read(starts[..., :_FIRST])
        high = highest(patches, first, gain, reach)
        low = lowest(patches, first, gain, reach)
        site, sheet, place = (least[..., _FIRST:] < low[..., None]).nonzero(as_tuple=True)
        if len(site):
            others = memory.read(starts[site, sheet, place + _FIRST])
            found = lowest(patches[site, sheet][None], others[None, :, None], gain, reach)[0]
            low = low.flatten().scatter_reduce(0, site * low.shape[1] + sheet, found, "amin").view_as(low)
        return torch.minimum(low, beyond).T, high.T

    def _candidates(self, starts: Tensor, count: int, shifts: Tensor | None) -> Tensor:
        """Memory patches that may be near in the other sheets, as their starts, (count, L, candidates).

        Args:
            starts: Where the nearest memory patches of the first sheet start, (L,).
            count: Number of other sheets.
            shifts: See the class.
        """
        config = self._memory.config
        if config.window_cells is None:
            return starts[None, :, None].expand(count, -1, -1)
        size = self._memory.sheets[0].numel()
        sheet, within = starts // size, starts % size
        found_at = within // config.width_cells, within % config.width_cells
        ends = config.height_cells - config.patch_cells, config.width_cells - config.patch_cells
        places = []  # by axis: places of the patches, of what they show, the nearest sites to it, places of all sites
        for axis, own in enumerate((config.rows, config.columns)):
            at = torch.tensor(own, device=starts.device)
            nearest = (torch.arange(ends[axis] + 1, device=starts.device)[:, None] - at).abs().argmin(1)
            here = at[:, None].expand(config.sites) if axis == 0 else at.expand(config.sites)
            there = here.flatten().expand(count, -1) + (0 if shifts is None else shifts[..., axis])
            site = nearest[there.clamp(0, ends[axis])]
            near = (site[..., None] + torch.arange(-1, 2, device=starts.device)).clamp(0, len(own) - 1)
            places.append((here.flatten(), there, near, at))
        (row, row_there, near_row, rows), (column, column_there, near_column, columns) = places
        near_row, near_column = near_row.repeat_interleave(3, 2), near_column.repeat(1, 1, 3)
        site = near_row * config.sites[1] + near_column  # (count, L, 9)
        found = []
        for axis, (here, there, at_sites) in enumerate(
            ((row, row_there, rows[near_row]), (column, column_there, columns[near_column]))
        ):
            reach = config.window_cells[axis]
            place = found_at[axis][site] + there[..., None] - at_sites
            least, most = (here - reach).clamp_min(0)[:, None], (here + reach).clamp_max(ends[axis])[:, None]
            found.append(torch.minimum(torch.maximum(place, least), most))
        return sheet[site] * size + found[0] * config.width_cells + found[1]

    def _map(self, values: Tensor) -> Tensor:
        return values.reshape(-1, 1, *self._memory.config.sites)
