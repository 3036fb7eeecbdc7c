"""Distances from the patches of an image to the patches of normal images, with bounds that hold for every perturbation.

An image is given as a sheet of cells, each a mean of pixels. At each site, a square of ``patch_cells`` x
``patch_cells`` cells is a patch ``p``. Its distance to the memory is

    S = min over memory patches m of sqrt(sum_j w_j (p_j - m_j)^2),    w_j >= 0, sum_j w_j = 1,

where the memory patches of a site are those of normal images within a window of cells around it, or all of them. With a
gain, a memory patch stands for the whole segment ``{g m : 1 - gain <= g <= 1 + gain}``.

A perturbation of the image by at most eps in every pixel changes every cell by at most eps, because cells are means,
so it changes ``S`` by at most eps. :mod:`advrad.denoisers.patch_intervals` computes tighter bounds.

Source: the optimal denoiser of an empirical distribution, patch by patch (Kamb and Ganguli, arXiv 2412.20292); the
limit of vanishing noise is the distance to the nearest patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.onnx import is_in_onnx_export

from advrad.denoisers.distance_graph import graph_distances
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_bounds import distance
from advrad.denoisers.patch_table import PatchTable, Searched, Winners, read_patches
from advrad.errors import ConfigError, DataError

#: Values of patches of which the winners are kept, at most.
_KEPT = 1 << 22


class PatchMemory(nn.Module):
    """The patches of normal images, and distances to them.

    Args:
        config: Shape of the patches.
        sheets: Cells of normal images times 255, as :meth:`quantised` makes them, (n, c, H, W) uint8: with a window, of
            the size of the sheets that are compared; without one, of any size.
        groups: Number of the image that each sheet comes from, (n,) int64; sheets of a group are left out together.
        chosen: Where the memory patches of each patch start in the flattened sheets, (L, config.chosen_patches) int32;
            None if ``config.chosen_patches`` is None. The sheets may then be of any size.

    Raises:
        ConfigError: ``chosen`` does not suit the settings.
    """

    sheets: Tensor
    groups: Tensor
    chosen: Tensor | None
    roots: Tensor

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
        self.register_buffer("roots", config.weights().sqrt().float(), persistent=False)
        self._table: PatchTable | None = None
        self._kept: Searched | None = None

    @staticmethod
    def quantised(cells: Tensor) -> Tensor:
        """Round cells, float in [0, 1], to what the memory stores, uint8."""
        return (cells * 255).round().clamp(0, 255).to(torch.uint8)

    def patches(self, cells: Tensor) -> Tensor:
        """Cut sheets, (b, c, H, W), into patches, (b, L, d), times the roots of the weights."""
        config = self.config
        if cells.ndim != 4 or cells.shape[1:] != (config.channels, config.height_cells, config.width_cells):
            shape = (config.channels, config.height_cells, config.width_cells)
            raise DataError(f"cells: expected (b, {shape[0]}, {shape[1]}, {shape[2]}), got {tuple(cells.shape)}")
        side = config.patch_cells
        cut = cells.unfold(2, side, 1).unfold(3, side, 1)
        cut = cut[:, :, config.rows][:, :, :, config.columns]  # (b, c, sites down, sites across, k, k)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) * self.roots.to(cells)

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
        winners = self.search(patches.detach(), exclude)
        return self._map(distance(patches, self.read(winners.start[..., None]), self.config.gain))

    @property
    def table(self) -> PatchTable:
        """The memory patches, prepared for comparison when they are first needed."""
        if self._table is None or self._table.middle.device != self.sheets.device:
            self._table = PatchTable.of(self.config, self.sheets, self.roots, self.chosen)
        return self._table

    def excluded(self, exclude: Tensor | None) -> Tensor | None:
        """Memory patches that do not count, (b, 1 or sites of the memory, n) bool, by groups to leave out, (b,)."""
        if exclude is None:
            return None
        groups = self.groups
        if self.chosen is not None:
            groups = groups[self.chosen.long() // self.sheets[0].numel()]
        elif self.config.window_cells is None:
            places = self.table.squares.shape[1] // len(groups)
            groups = groups.repeat(places)[None]
        else:
            groups = groups[None]
        excluded = groups == exclude[:, None, None].to(groups.device)
        if bool(excluded.all(2).any()):
            raise DataError(
                "the memory holds patches of one image only, so it cannot be left out; give more normal images"
            )
        return excluded

    def search(self, patches: Tensor, exclude: Tensor | None = None) -> Winners:
        """Find the nearest memory patch of every patch.

        Without gradients, what was found last is kept: the score of an image, its map and its bounds at any radius ask
        for the same. An attack asks for other patches at every step.

        Args:
            patches: Patches, (b, L, d), as :meth:`patches` cuts them.
            exclude: Group to leave out of the memory for each sheet, (b,) int64; None leaves out none.

        Raises:
            DataError: A sheet would be compared with nothing.
        """
        table, kept = self.table, self._kept
        if torch.is_grad_enabled() or patches.numel() > _KEPT:
            with torch.no_grad():
                return table.search(patches, self.excluded(exclude))
        found = kept.winners_of(patches, exclude) if kept is not None and kept.table is table else None
        if found is None:
            found = table.search(patches, self.excluded(exclude))
            self._kept = Searched(table, patches, exclude, found)
        return found

    def read(self, starts: Tensor) -> Tensor:
        """Read memory patches, (..., d), times the roots of the weights, by where they start, (...)."""
        return read_patches(self.config, self.sheets, starts).to(self.roots) * self.roots

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
