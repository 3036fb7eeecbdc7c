"""Distances from the patches of an image to the patches of normal images, with bounds that hold for every perturbation.

An image is given as a sheet of cells, each a mean of pixels. At each site, a square of ``patch_cells`` x
``patch_cells`` cells is a patch ``p``. Its distance to the memory is

    S = min over memory patches m of sqrt(sum_j w_j (p_j - m_j)^2),    w_j >= 0, sum_j w_j = 1,

where the memory patches of a site are those of normal images within a window of cells around it, or all of them. With a
gain, a memory patch stands for the whole segment ``{g m : 1 - gain <= g <= 1 + gain}``.

A perturbation of the image by at most eps in every pixel changes every cell by at most eps, because cells are means,
so it changes ``S`` by at most eps. :meth:`PatchMemory.bounds` computes tighter bounds.

Source: the optimal denoiser of an empirical distribution, patch by patch (Kamb and Ganguli, arXiv 2412.20292); the
limit of vanishing noise is the distance to the nearest patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.onnx import is_in_onnx_export

from advrad.denoisers.distance_graph import graph_distances
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_bounds import distance, highest, lowest
from advrad.denoisers.patch_table import PatchTable, Winners, read_patches, relative_error
from advrad.errors import ConfigError, DataError

#: Memory patches of a site whose bounds are computed exactly; the others are bounded by the last of these.
_REFINED = 64
#: Terms that are summed from the pixels of an image to a cell, at most; for the bound on rounding.
_TERMS_OF_A_CELL = 256


@dataclass(frozen=True, slots=True)
class PatchDistances:
    """Distances of the patches of b sheets to the memory.

    Attributes:
        nearest: Distance to the nearest memory patch, (b, 1, sites down, sites across).
        lower: What no perturbation within the radius can make it fall below, same shape.
        upper: What no perturbation within the radius can make it exceed, same shape.
    """

    nearest: Tensor
    lower: Tensor
    upper: Tensor


class PatchMemory(nn.Module):
    """The patches of normal images, and distances to them.

    Args:
        config: Shape of the patches.
        sheets: Cells of normal images times 255, as :meth:`quantised` makes them, (n, c, H, W) uint8: with a window, of
            the size of the sheets that are compared; without one, of any size.
        groups: Number of the image that each sheet comes from, (n,) int64; sheets of a group are left out together.
        chosen: Where the memory patches of each patch start in the flattened sheets, (L, config.chosen_patches) int32,
            as :meth:`choose` makes it; None if ``config.chosen_patches`` is None.

    Raises:
        ConfigError: ``chosen`` does not suit the settings.
    """

    sheets: Tensor
    groups: Tensor
    chosen: Tensor | None
    _roots: Tensor

    def __init__(self, config: MemoryConfig, sheets: Tensor, groups: Tensor, chosen: Tensor | None = None) -> None:
        super().__init__()
        sites = config.sites[0] * config.sites[1]
        expected = None if config.chosen_patches is None else (sites, config.chosen_patches)
        if (None if chosen is None else tuple(chosen.shape)) != expected:
            raise ConfigError(f"chosen memory patches: expected the shape {expected}")
        self.config = config
        self.register_buffer("sheets", sheets)
        self.register_buffer("groups", groups)
        self.register_buffer("chosen", chosen)
        self.register_buffer("_roots", config.weights().sqrt().float(), persistent=False)
        self._table: PatchTable | None = None

    @staticmethod
    def quantised(cells: Tensor) -> Tensor:
        """Round cells, float in [0, 1], to what the memory stores, uint8."""
        return (cells * 255).round().clamp(0, 255).to(torch.uint8)

    @staticmethod
    def choose(config: MemoryConfig, sheets: Tensor, generator: torch.Generator) -> Tensor | None:
        """Choose the memory patches of each patch at random, from all sheets and all places within the window.

        The choice does not depend on the values of the sheets, so images that are left out in turn stay exchangeable.

        Args:
            config: Shape of the patches, and how many to choose.
            sheets: Sheets, (n, c, H, W).
            generator: Source of the draws.

        Returns:
            Starts of the patches in the flattened sheets, (L, k) int32; None if ``config.chosen_patches`` is None.
        """
        if config.chosen_patches is None or config.window_cells is None:
            return None
        size, last = (
            sheets[0].numel(),
            (config.height_cells - config.patch_cells, config.width_cells - config.patch_cells),
        )
        chosen = []
        for row in config.rows:
            for column in config.columns:
                shape = (config.chosen_patches,)
                places = [
                    torch.randint(max(0, at - reach), min(end, at + reach) + 1, shape, generator=generator)
                    for at, reach, end in zip((row, column), config.window_cells, last, strict=True)
                ]
                of = torch.randint(len(sheets), shape, generator=generator)
                chosen.append(of * size + places[0] * config.width_cells + places[1])
        return torch.stack(chosen).to(torch.int32)

    def patches(self, cells: Tensor) -> Tensor:
        """Cut sheets, (b, c, H, W), into patches, (b, L, d), times the roots of the weights."""
        config = self.config
        if cells.ndim != 4 or cells.shape[1:] != (config.channels, config.height_cells, config.width_cells):
            shape = (config.channels, config.height_cells, config.width_cells)
            raise DataError(f"cells: expected (b, {shape[0]}, {shape[1]}, {shape[2]}), got {tuple(cells.shape)}")
        side = config.patch_cells
        cut = cells.unfold(2, side, 1).unfold(3, side, 1)
        cut = cut[:, :, config.rows][:, :, :, config.columns]  # (b, c, sites down, sites across, k, k)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) * self._roots.to(cells)

    def nearest(self, cells: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Compute the distance of every patch to the memory.

        Args:
            cells: Sheets, (b, c, H, W) float in [0, 1].
            exclude: Group to leave out of the memory for each sheet, (b,) int64; None leaves out none.

        Returns:
            Distances, (b, 1, sites down, sites across), differentiable in ``cells``. Each changes by at most eps if no
            cell changes by more than eps.

        Raises:
            DataError: A sheet has the wrong shape, or would be compared with nothing.
        """
        if is_in_onnx_export():  # the search is no graph
            return graph_distances(self.config, self.sheets, cells, self.chosen)
        patches = self.patches(cells)
        winners = self._winners(patches, exclude)
        return self._map(distance(patches, self._memory_patches(winners.start[..., None]), self.config.gain))

    def bounds(
        self,
        cells: Tensor,
        eps: float,
        exclude: Tensor | None = None,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> PatchDistances:
        """Bound the distances under every perturbation of at most eps in each cell.

        Args:
            cells: Sheets, (b, c, H, W) float in [0, 1].
            eps: Largest change of a cell, >= 0.
            exclude: As in :meth:`nearest`.
            choose: Function from the distances, as :meth:`nearest` returns them, to the numbers of the sites whose
                bounds are computed exactly, (b, t); None for all. Elsewhere the lower bound is ``S - eps``.

        Returns:
            Distances and bounds. At these sites and with gain 0 they are attained, up to rounding, except that
            ``lower`` may be lower where many memory patches are about equally near.

        Raises:
            DataError: As for :meth:`nearest`.
        """
        with torch.no_grad():
            patches, excluded = self.patches(cells), self._excluded(exclude)
            winners = self._patch_table.search(patches, excluded)
            gain, reach = self.config.gain, eps * self._roots
            memory = self._memory_patches(winners.start[..., None])
            nearest = distance(patches, memory, gain)
            # A perturbation makes a patch at most eps longer, and so the error of what is compared.
            unit = relative_error(len(self._roots))
            error = winners.error + 2 * unit * eps * (2 * (winners.error / unit).sqrt() + eps)
            # The plain bounds; the true distance may be less than the computed one by the error.
            lower = (nearest.square() - 2 * error).clamp_min(0).sqrt() - eps
            upper = torch.minimum(highest(patches, memory, gain, reach), nearest + eps)
            every = torch.arange(patches.shape[1], device=patches.device).expand(len(patches), -1)
            for row, sites in enumerate(every if choose is None else choose(self._map(nearest))):
                left_out = None if excluded is None else excluded[row]
                for part in torch.split(sites, 64) if len(sites) else ():  # splitting nothing gives an empty part
                    low, high = self._refined(patches[row, part], part, left_out, eps, error[row, part])
                    lower[row, part] = torch.maximum(lower[row, part], low)
                    upper[row, part] = torch.minimum(upper[row, part], high)
            # After a perturbation, a memory patch may be overlooked that is nearer by the error.
            upper = (upper.square() + 2 * error).sqrt()
            slack = 4 * relative_error(_TERMS_OF_A_CELL + len(self._roots)) * (1 + nearest)
            return PatchDistances(self._map(nearest), self._map((lower - slack).clamp_min(0)), self._map(upper + slack))

    def _refined(
        self, patches: Tensor, sites: Tensor, left_out: Tensor | None, eps: float, error: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Bounds of the distances of some patches, (t, d), of one sheet, from their nearest memory patches."""
        gain, reach = self.config.gain, eps * self._roots
        squared, compared, _ = self._patch_table.all_of(sites, patches)
        if left_out is not None:
            squared.masked_fill_(left_out if len(left_out) == 1 else left_out[compared], torch.inf)
        squared = squared.flatten(1)
        count = squared.shape[1]
        values, order = squared.topk(min(_REFINED + 1, count), dim=1, largest=False)
        rest = values[:, -1] if count > _REFINED else torch.full_like(values[:, 0], torch.inf)
        values, order = values[:, :_REFINED], order[:, :_REFINED]
        order = torch.where(values.isinf(), order[:, :1], order)
        memory = self._memory_patches(self._patch_table.starts_of(compared, order)[None])
        beyond = (rest - error).clamp_min(0).sqrt() - eps
        low = torch.minimum(lowest(patches[None], memory, gain, reach)[0], beyond)
        return low, highest(patches[None], memory, gain, reach)[0]

    @property
    def _patch_table(self) -> PatchTable:
        if self._table is None or self._table.middle.device != self.sheets.device:
            self._table = PatchTable.of(self.config, self.sheets, self._roots, self.chosen)
        return self._table

    def _excluded(self, exclude: Tensor | None) -> Tensor | None:
        """Memory patches that do not count, (b, 1 or sites of the memory, n) bool."""
        if exclude is None:
            return None
        groups = self.groups
        if self.chosen is not None:
            groups = groups[self.chosen.long() // self.sheets[0].numel()]
        elif self.config.window_cells is None:
            places = self._patch_table.squares.shape[1] // len(groups)
            groups = groups.repeat(places)[None]
        else:
            groups = groups[None]
        excluded = groups == exclude[:, None, None].to(groups.device)
        if bool(excluded.all(2).any()):
            raise DataError(
                "the memory holds patches of one image only, so it cannot be left out; give more normal images"
            )
        return excluded

    def _winners(self, patches: Tensor, exclude: Tensor | None) -> Winners:
        with torch.no_grad():
            return self._patch_table.search(patches.detach(), self._excluded(exclude))

    def _memory_patches(self, starts: Tensor) -> Tensor:
        """Read memory patches, (..., d), times the roots of the weights, by where they start, (...)."""
        return read_patches(self.config, self.sheets, starts).to(self._roots) * self._roots

    def _map(self, values: Tensor) -> Tensor:
        return values.reshape(-1, 1, *self.config.sites)


def sheet_of(values: Tensor, config: MemoryConfig) -> Tensor:
    """Give every cell of a sheet the value of the site whose middle is nearest.

    Args:
        values: Values of sites, (b, 1, sites down, sites across).
        config: Shape of the patches.

    Returns:
        Values of cells, (b, 1, H, W).

    Example:
        >>> config = MemoryConfig(height_cells=5, width_cells=3, patch_cells=3, stride_cells=2)
        >>> sheet_of(torch.tensor([[[[1.0], [2.0]]]]), config)[0, 0, :, 0]
        tensor([1., 1., 1., 2., 2.])
    """
    for axis, (length, places) in enumerate(((config.height_cells, config.rows), (config.width_cells, config.columns))):
        middles = torch.tensor(places, device=values.device) + config.patch_cells // 2
        nearest = (torch.arange(length, device=values.device)[:, None] - middles).abs().argmin(1)
        values = values.index_select(2 + axis, nearest)
    return values
