"""A detector of tiles as a graph: all tiles of an image go through the closed form together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from advrad.detectors.tiled import TiledDetector
from advrad.detectors.tiled_config import tile_starts
from advrad.exporting.score_graph import Scored, ScoreGraph


class TiledGraph(ScoreGraph):
    """The largest score of the tiles of an image, and one map of all tiles.

    Args:
        detector: Detector.
    """

    def __init__(self, detector: TiledDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, working: Tensor) -> Scored:
        """Score a working image; see :class:`ScoreGraph`."""
        config, side = self.detector.config, self.detector.image_size_px
        found = Scored.of(self.detector.base.infer(torch.cat(list(self.detector.tiles(working)))))
        down, across = (tile_starts(length, side) for length in (config.height_px, config.width_px))
        tiles = found.maps.reshape(len(down), len(across), 1, 1, side, side)
        bands = [overlaid([tiles[row, column] for column in range(len(across))], across, 3) for row in range(len(down))]
        return Scored(found.score.amax(0, keepdim=True), overlaid(bands, down, 2))


def overlaid(parts: Sequence[Tensor], starts: Sequence[int], axis: int) -> Tensor:
    """Lay overlapping parts side by side: the largest value where they overlap.

    Args:
        parts: Parts of one length along the axis, which together cover it from 0 to the end of the last.
        starts: Where each begins, rising.
        axis: The axis.

    Example:
        >>> overlaid([torch.tensor([1.0, 5.0]), torch.tensor([2.0, 3.0])], [0, 1], 0)
        tensor([1., 5., 3.])
    """
    length = parts[0].shape[axis]
    edges = sorted({*starts, *(start + length for start in starts)})
    pieces = []
    for begin, end in itertools.pairwise(edges):
        beneath = [
            part.narrow(axis, begin - start, end - begin)
            for part, start in zip(parts, starts, strict=True)
            if start <= begin and end <= start + length
        ]
        pieces.append(torch.stack(beneath).amax(0))
    return torch.cat(pieces, axis)
