"""Groups of patches that are compared with the same memory patches within a window, for graphs.

Along each axis, neighbouring memory places that see the same patches form a group. A place that a patch of its group
does not reach counts as infinitely far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig

#: Stands for an infinite squared distance, which some runtimes do not have.
FAR = 1e30


@dataclass(frozen=True, slots=True)
class _Axis:
    """Groups along one axis: places of the memory, and patches by number, None for none."""

    places: list[list[int]]
    patches: list[list[int | None]]
    starts: list[int]
    reach: int

    @classmethod
    def of(cls, starts: list[int], stride: int, last: int, reach: int) -> _Axis:
        """Make the groups of patches that start at cells; memory patches start at 0 to ``last``."""
        regular = [start for start in starts if start % stride == 0]
        # The alignment with the fewest patches in a group.
        options = [
            _cut(range(first - stride + 1, last + 1, stride), stride, regular, last, reach) for first in range(stride)
        ]
        groups = min(options, key=lambda option: max(len(near) for _, near in option) * len(option))
        for start in starts[len(regular) :]:  # the patch at the border does not follow the stride
            near = list(range(max(start - reach, 0), min(start + reach, last) + 1))
            groups += [(near[at : at + stride], [start]) for at in range(0, len(near), stride)]
        most = max(len(near) for _, near in groups)
        numbers = {start: number for number, start in enumerate(starts)}
        return cls(
            places=[places + [places[-1]] * (stride - len(places)) for places, _ in groups],
            patches=[[numbers[at] for at in near] + [None] * (most - len(near)) for _, near in groups],
            starts=starts,
            reach=reach,
        )

    def reached(self) -> Tensor:
        """Whether a patch reaches a place, (groups, patches, places) bool."""
        return torch.tensor(
            [
                [[patch is not None and abs(self.starts[patch] - at) <= self.reach for at in places] for patch in near]
                for places, near in zip(self.places, self.patches, strict=True)
            ]
        )


def _cut(firsts: range, length: int, starts: list[int], last: int, reach: int) -> list[tuple[list[int], list[int]]]:
    """Cut the places 0 to ``last`` into groups, each with the patches that reach any of its places."""
    groups = []
    for first in firsts:
        places = [place for place in range(first, first + length) if 0 <= place <= last]
        near = [at for at in starts if places and places[0] - reach <= at <= places[-1] + reach]
        if near:
            groups.append((places, near))
    return groups


@dataclass(frozen=True, slots=True)
class PatchGroups:
    """Which patches are compared with which places of the memory: S groups of Q patches and P places.

    Attributes:
        queries: Patches of each group, (S, Q) int64; the number of patches stands for none.
        beyond: What is added to squared distances, (S, Q, P): 0, or :data:`FAR` where a patch does not reach a place.
        pairs: For each patch, its places in the flattened (S, Q), (L, o) int64; repeated where it has fewer.
        starts: Where the places of each group start in a flattened sheet, (S, P) int64.
        places: Rows and columns of the places of the groups along each axis.
    """

    queries: Tensor
    beyond: Tensor
    pairs: Tensor
    starts: Tensor
    places: tuple[list[list[int]], list[list[int]]]

    @classmethod
    def of(cls, config: MemoryConfig, window: tuple[int, int]) -> PatchGroups:
        """Make the groups of a memory with a window."""
        lengths = config.height_cells - config.patch_cells, config.width_cells - config.patch_cells
        stride = config.stride_cells
        down = _Axis.of(config.rows, stride, lengths[0], window[0])
        over = _Axis.of(config.columns, stride, lengths[1], window[1])
        across, total = len(config.columns), len(config.rows) * len(config.columns)
        queries = [
            [total if i is None or j is None else i * across + j for i in rows for j in columns]
            for rows in down.patches
            for columns in over.patches
        ]
        # (groups down, groups across, patches down, patches across, places down, places across)
        reached = down.reached()[:, None, :, None, :, None] & over.reached()[None, :, None, :, None, :]
        reached = reached.flatten(4).flatten(2, 3).flatten(0, 1)
        listed: list[list[int]] = [[] for _ in range(total)]
        for place, patch in enumerate(patch for group in queries for patch in group):
            if patch < total:
                listed[patch].append(place)
        most = max(map(len, listed))
        starts = [
            [row * config.width_cells + column for row in rows for column in columns]
            for rows in down.places
            for columns in over.places
        ]
        return cls(
            queries=torch.tensor(queries),
            beyond=torch.where(reached, 0.0, FAR),
            pairs=torch.tensor([own + own[-1:] * (most - len(own)) for own in listed]),
            starts=torch.tensor(starts),
            places=(down.places, over.places),
        )

    def memory(self, sheets: Tensor, config: MemoryConfig) -> Tensor:
        """Memory patches of the groups, times the roots of the weights, (S, d, P n), of sheets, (n, c, H, W) uint8."""
        side, (rows, columns) = config.patch_cells, self.places
        down, over = (
            torch.tensor([at + step for group in groups for at in group for step in range(side)]).to(sheets.device)
            for groups in self.places
        )
        cut = sheets.permute(1, 2, 3, 0).index_select(1, down)  # (c, rows, W, n)
        cut = cut.reshape(config.channels, len(rows), -1, side, config.width_cells * len(sheets))
        cut = cut.permute(1, 0, 3, 2, 4).reshape(-1, config.width_cells, len(sheets)).index_select(1, over)
        cut = cut.reshape(len(rows), config.channels * side, len(rows[0]), len(columns), -1, side, len(sheets))
        cut = cut.permute(0, 3, 1, 5, 2, 4, 6).reshape(len(rows) * len(columns), config.channels * side**2, -1)
        return cut.float() / 255 * config.weights().sqrt().float().to(sheets.device)[:, None]
