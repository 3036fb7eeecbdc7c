"""Nearest memory patches within a small window, for graphs: by sums over rows that neighbouring patches share.

Patches whose windows hardly overlap share no memory patches, so a matrix product for each of them would read a memory
that is many times larger than the sheets. But they share rows: for each row of the memory and a few neighbouring
patches, one matrix product compares rows of the image, at every displacement, with that row of all sheets. The sums
over the rows of a patch are then those of its squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.distance_groups import FAR
from advrad.denoisers.memory_config import MemoryConfig

#: Neighbouring patches that are compared in one matrix product.
_BLOCK = 4
#: Sums over rows that are computed at once: few enough to stay in the processor's cache.
_AT_ONCE = 1 << 21


def suits_rows(config: MemoryConfig) -> bool:
    """Whether sums over rows are fewer than an eighth of the values of all memory patches.

    Args:
        config: Shape of the patches, with a window.

    Example:
        >>> suits_rows(MemoryConfig(height_cells=128, width_cells=128, patch_cells=9, stride_cells=4))
        True
    """
    if config.taper != "flat" or config.window_cells is None:
        return False
    displacements = (2 * config.window_cells[0] + 1) * (2 * config.window_cells[1] + 1)
    places = (config.height_cells - config.patch_cells + 1) * (config.width_cells - config.patch_cells + 1)
    sums = config.height_cells * len(config.columns) * displacements
    return 8 * sums < places * config.channels * config.patch_cells**2


@dataclass(frozen=True)
class _Layout:
    """Where rows, columns and displacements lie.

    Attributes:
        config: Shape of the patches.
        reach: Largest displacement, down and across.
    """

    config: MemoryConfig
    reach: tuple[int, int]

    @property
    def downs(self) -> range:
        """Displacements downwards."""
        return range(-self.reach[0], self.reach[0] + 1)

    @property
    def overs(self) -> range:
        """Displacements across."""
        return range(-self.reach[1], self.reach[1] + 1)

    @property
    def tall(self) -> int:
        """Rows of the memory that a patch meets."""
        return self.config.patch_cells + 2 * self.reach[0]

    @cached_property
    def columns(self) -> list[int]:
        """First cells of the patches across, the last one repeated until the last block is full."""
        columns = self.config.columns
        return columns + columns[-1:] * (-len(columns) % _BLOCK)

    @cached_property
    def wide(self) -> int:
        """Columns of the memory that a block of patches meets."""
        blocks = range(0, len(self.columns), _BLOCK)
        spans = [self.columns[at + _BLOCK - 1] - self.columns[at] for at in blocks]
        return max(spans) + self.config.patch_cells + 2 * self.reach[1]

    @cached_property
    def regular(self) -> list[int]:
        """First cells of the patches down that follow the stride; the one at the border need not."""
        return [row for row in self.config.rows if row % self.config.stride_cells == 0]

    @cached_property
    def rows(self) -> list[int]:
        """Rows of the memory, one after another, as strided sums read them; those outside the memory are zeros."""
        rows = list(range(-self.reach[0], self.regular[-1] + self.config.patch_cells + self.reach[0]))
        for start in self.config.rows[len(self.regular) :]:
            rows += [-self.tall] * (-len(rows) % self.config.stride_cells)
            rows += range(start - self.reach[0], start - self.reach[0] + self.tall)
        return rows

    @cached_property
    def starts(self) -> list[int]:
        """First cell of the patch of each sum; sums between the last two are of no patch, and repeat the last."""
        count = (len(self.rows) - self.tall) // self.config.stride_cells + 1
        return self.regular + self.config.rows[-1:] * (count - len(self.regular))

    @cached_property
    def places(self) -> list[int]:
        """Number of the sum of each row of patches."""
        border = len(self.config.rows) - len(self.regular)
        return [*range(len(self.regular)), *[len(self.starts) - 1] * border]

    def entries(self, block: int) -> list[int]:
        """Where the rows of the image lie that a block compares, in the row that :func:`_displaced` makes.

        In the order of patches, displacements, channels, columns of the memory; the last entry is a zero.
        """
        side, width, first = self.config.patch_cells, self.config.width_cells, self.columns[block * _BLOCK]
        across = len(self.overs) * self.config.channels * width
        found = []
        for start in self.columns[block * _BLOCK : (block + 1) * _BLOCK]:
            for down in range(len(self.downs)):
                for place, over in enumerate(self.overs):
                    for channel in range(self.config.channels):
                        base = down * across + (place * self.config.channels + channel) * width
                        # The column of the image under a column of the memory.
                        under = range(first - self.reach[1] - over, first - self.reach[1] - over + self.wide)
                        zero = len(self.downs) * across
                        found += [base + at if start <= at < start + side else zero for at in under]
        return found


def row_winners(config: MemoryConfig, sheets: Tensor, cells: Tensor, reach: tuple[int, int]) -> Tensor:
    """Find the nearest memory patches.

    Args:
        config: Shape of the patches; flat.
        sheets: Memory, (n, c, H, W) uint8.
        cells: Sheets to compare, (b, c, H, W) float in [0, 1].
        reach: Window.

    Returns:
        Where they start in the flattened memory, (b, L) int64.
    """
    layout, memory = _Layout(config, reach), sheets.float() / 255
    middle = memory.mean(0)
    shown = _shown(middle, layout)  # (downs, overs, c, H, W)
    displaced = cells[:, None, None] - shown
    own, along = (_patch_sums(part, layout) for part in (displaced.square(), displaced * shown))
    rows = _rows(displaced, layout)
    against = _against(memory - middle, layout)
    of_memory = _of_memory(memory, middle, layout)
    blocks, found = len(layout.columns) // _BLOCK, []
    count = len(layout.downs) * len(layout.overs) * len(sheets)
    step = max(1, _AT_ONCE // (len(layout.rows) * _BLOCK * count))
    for first in range(0, blocks, step):
        chunk = slice(first, min(first + step, blocks))
        sums = _sums(rows, against[:, chunk], layout, chunk)  # (b, O, sites, D, n)
        sites = slice(chunk.start * _BLOCK, chunk.stop * _BLOCK)
        squares, size, beside = (part[:, sites] for part in of_memory)
        least = squares - 2 * sums
        if config.gain:  # as in advrad.denoisers.distance_graph
            shares = sums + (along[:, :, sites] - beside)
            change = (shares / size).clamp(-config.gain, config.gain)
            least = least - change * (2 * shares - change * size)
        least = least + own[:, :, sites]
        found.append(least.flatten(3).topk(1, 3, largest=False).indices[..., 0])
    entry = torch.cat(found, 2)[:, :, : len(config.columns)]
    entry = entry.index_select(1, torch.tensor(layout.places, device=cells.device))
    return _start(entry, layout, len(sheets)).flatten(1)


def _shown(middle: Tensor, layout: _Layout) -> Tensor:
    """The mean sheet, (c, H, W), as each displacement shows it, (downs, overs, c, H, W); zeros lie outside."""
    config, (down, over) = layout.config, layout.reach
    padded = F.pad(middle, (over, over, down, down))
    rows = torch.tensor([row + at for at in range(len(layout.downs)) for row in range(config.height_cells)])
    columns = torch.tensor([col + at for at in range(len(layout.overs)) for col in range(config.width_cells)])
    cut = padded.index_select(1, rows.to(middle.device)).index_select(2, columns.to(middle.device))
    cut = cut.view(config.channels, len(layout.downs), config.height_cells, len(layout.overs), config.width_cells)
    return cut.permute(1, 3, 0, 2, 4)


def _patch_sums(values: Tensor, layout: _Layout) -> Tensor:
    """Means over the patches of each sum, (b, O, sites, D, 1), of values, (b, downs, overs, c, H, W)."""
    side, config = layout.config.patch_cells, layout.config
    bands = []
    for starts, length in ((layout.starts, config.height_cells), (layout.columns, config.width_cells)):
        band = [[0.0] * at + [1 / side] * side + [0.0] * (length - at - side) for at in starts]
        bands.append(torch.tensor(band, dtype=values.dtype, device=values.device))
    means = bands[0] @ values.mean(3).flatten(1, 2) @ bands[1].T  # (b, D, O, sites)
    return means.permute(0, 2, 3, 1)[..., None]


def _rows(displaced: Tensor, layout: _Layout) -> Tensor:
    """Rows of the image under each row of the memory, at every displacement, with a zero, (b, rows, entries)."""
    config, downs = layout.config, layout.downs
    height = config.height_cells
    lines = displaced.permute(0, 1, 4, 2, 3, 5).flatten(3).flatten(1, 2)  # (b, downs H, overs c W)
    none = len(downs) * height
    under = [
        place * height + row - down if 0 <= row - down < height and 0 <= row < height else none
        for row in layout.rows
        for place, down in enumerate(downs)
    ]
    lines = F.pad(lines, (0, 0, 0, 1)).index_select(1, torch.tensor(under, device=displaced.device))
    return F.pad(lines.view(-1, len(layout.rows), len(downs) * lines.shape[2]), (0, 1))


def _against(centred: Tensor, layout: _Layout) -> Tensor:
    """Rows of the memory that each block meets, (rows, blocks, c columns, n), of sheets, (n, c, H, W)."""
    config, (_, over) = layout.config, layout.reach
    padded = F.pad(centred.permute(2, 3, 1, 0), (0, 0, 0, 0, over, layout.wide, 0, 1))  # (H + 1, columns, c, n)
    rows = [row if 0 <= row < config.height_cells else config.height_cells for row in layout.rows]
    firsts = layout.columns[::_BLOCK]
    columns = [first + at for first in firsts for at in range(layout.wide)]
    cut = padded.index_select(0, torch.tensor(rows, device=centred.device))
    cut = cut.index_select(1, torch.tensor(columns, device=centred.device))
    cut = cut.view(len(rows), len(firsts), layout.wide, config.channels, -1).permute(0, 1, 3, 2, 4)
    return cut.flatten(2, 3) / (config.channels * config.patch_cells**2)


def _of_memory(memory: Tensor, middle: Tensor, layout: _Layout) -> tuple[Tensor, Tensor, Tensor]:
    """What does not depend on the image, (O, sites, D, n) each.

    Squared distances of memory patches from the mean patch, infinite outside the memory; their squared norms; and the
    products of both.
    """
    config, side = layout.config, layout.config.patch_cells
    ends = config.height_cells - side, config.width_cells - side
    centred = memory - middle
    reached = [
        [start + step for start in starts for step in steps]
        for starts, steps in ((layout.starts, layout.downs), (layout.columns, layout.overs))
    ]
    rows, columns = (torch.tensor(part, device=memory.device) for part in reached)
    shape = len(layout.starts), len(layout.downs), len(layout.columns), len(layout.overs)

    def arranged(values: Tensor) -> Tensor:  # (rows, columns, n)
        return values.view(*shape, -1).permute(0, 2, 1, 3, 4).flatten(2, 3)

    def at_places(values: Tensor) -> Tensor:  # (n, c, H, W)
        means = F.avg_pool2d(values.mean(1, keepdim=True), side, 1)[:, 0].permute(1, 2, 0)
        return arranged(means.index_select(0, rows.clamp(0, ends[0])).index_select(1, columns.clamp(0, ends[1])))

    outside = (rows < 0) | (rows > ends[0]), (columns < 0) | (columns > ends[1])
    beyond = (outside[0][:, None] | outside[1]).to(memory) * FAR
    size = at_places(memory.square()).clamp_min(1e-12)
    return at_places(centred.square()) + arranged(beyond[..., None]), size, at_places(centred * memory)


def _sums(rows: Tensor, against: Tensor, layout: _Layout, chunk: slice) -> Tensor:
    """Mean products of patches of the image and of the memory, (b, O, sites, D, n), of some blocks."""
    config = layout.config
    blocks, (values, count) = against.shape[1], against.shape[2:]
    entries = [entry for block in range(chunk.start, chunk.stop) for entry in layout.entries(block)]
    image = rows.index_select(2, torch.tensor(entries, device=rows.device))
    products = image.view(-1, len(layout.rows), blocks, len(entries) // (blocks * values), values) @ against
    products = products.flatten(3).permute(0, 3, 1, 2)  # (b, sites D n, rows, blocks)
    # The rows of a patch begin at its displacement.
    taps = [
        [float(step <= at < step + config.patch_cells) for at in range(layout.tall)]
        for step in range(len(layout.downs))
    ]
    each = torch.tensor(taps, device=rows.device).repeat_interleave(len(layout.overs) * count, 0).repeat(_BLOCK, 1)
    sums = F.conv2d(products, each[:, None, :, None], stride=(config.stride_cells, 1), groups=len(each))
    sums = sums.permute(0, 2, 3, 1)
    return sums.reshape(-1, sums.shape[1], blocks * _BLOCK, len(layout.downs) * len(layout.overs), count)


def _start(entry: Tensor, layout: _Layout, count: int) -> Tensor:
    """Where memory patches start in the flattened memory, by their displacement and sheet, (b, rows, columns)."""
    config, overs = layout.config, len(layout.overs)
    displacement, sheet = entry // count, entry % count
    down, over = displacement // overs - layout.reach[0], displacement % overs - layout.reach[1]
    rows = torch.tensor(config.rows, device=entry.device)[:, None] + down
    columns = torch.tensor(config.columns, device=entry.device) + over
    cells = config.height_cells * config.width_cells * config.channels
    return sheet * cells + rows * config.width_cells + columns
