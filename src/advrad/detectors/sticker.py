"""What a sticker leaves of a score: everything inside one square may change, and nothing outside of it.

A patch that the square does not touch keeps its distance. The sites whose patches are untouched are those above, below,
left and right of the square. So wherever the square lies, the score is at least

    max(f(y), g(x)),    f(y): score from the sites above and below rows y .. y + side - 1,
                        g(x): score from the sites left and right of columns x .. x + side - 1,

with the least possible value at all other sites, for any pooling that is non-decreasing in every site. For a maximum
this is exact. The minimum over all squares is ``max(min f, min g)``: rows and columns are searched separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.data.resize_norm import resize_matrix

Pixels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Spans:
    """The pixels that the patches of each row, or each column, of sites depend on.

    Attributes:
        first: First row, or column, of pixels, (sites,).
        last: Last row, or column, of pixels, (sites,).
    """

    first: Pixels
    last: Pixels

    @classmethod
    def of(cls, length_px: int, size_px: int, cell_px: int, starts: Sequence[int], patch_cells: int) -> Spans:
        """Compute the spans of patches of an image that is resized to a square and averaged over cells.

        Args:
            length_px: Height, or width, of the image.
            size_px: Side of the square.
            cell_px: Side of a cell in pixels of the square.
            starts: First cell of the patches of each row, or column, of sites.
            patch_cells: Side of a patch in cells.
        """
        first, last = _cell_spans(length_px, size_px, cell_px)
        begin = np.asarray(starts)
        return cls(first[begin], last[begin + patch_cells - 1])


@lru_cache(maxsize=64)
def _cell_spans(length_px: int, size_px: int, cell_px: int) -> tuple[Pixels, Pixels]:
    """First and last pixel that each cell depends on along one side."""
    used = np.eye(size_px) if length_px == size_px else resize_matrix(length_px, size_px)
    cells = np.abs(used.reshape(size_px // cell_px, cell_px, length_px)).max(1) > 0
    return cells.argmax(1), length_px - 1 - cells[:, ::-1].argmax(1)


@dataclass(frozen=True, eq=False)
class SiteScores:
    """The standardised distances of one member of a detector, and how they become its score.

    Attributes:
        values: Standardised distances, (b, 1, sites down, sites across).
        least: Least possible values, broadcastable to that shape.
        pool: Function from values to scores, (b,), non-decreasing in every value.
        rows: Pixels that the patches of each row of sites depend on.
        columns: Pixels that the patches of each column of sites depend on.
    """

    values: Tensor
    least: Tensor
    pool: Callable[[Tensor], Tensor]
    rows: Spans
    columns: Spans


def sticker_bound(members: Sequence[SiteScores], height_px: int, width_px: int, side_px: int) -> Tensor:
    """Bound the maximum over members from below, for a sticker on any square of the image.

    Args:
        members: Members of a detector whose patches lie at fixed places of the image, at least one.
        height_px: Height of the image.
        width_px: Width of the image.
        side_px: Side of the square, >= 1.

    Returns:
        Lower bounds of the scores, (b,).

    Example:
        >>> spans = Spans(np.arange(4), np.arange(4))
        >>> values = torch.zeros(1, 1, 4, 4)
        >>> values[0, 0, 0, 0], values[0, 0, 3, 3] = 5.0, 2.0
        >>> member = SiteScores(values, torch.zeros(1), lambda sites: sites.amax((1, 2, 3)), spans, spans)
        >>> sticker_bound([member], 4, 4, side_px=2)
        tensor([2.])
    """
    worst = []
    for length_px, down in ((height_px, True), (width_px, False)):
        kept = torch.stack([_kept(member, length_px, side_px, down) for member in members])  # (members, positions, b)
        worst.append(kept.amax(0).amin(0))
    return torch.maximum(*worst)


def _kept(member: SiteScores, length_px: int, side_px: int, down: bool) -> Tensor:
    """Score from the sites before and behind a band of pixels, for every position of the band, (positions, b)."""
    spans = member.rows if down else member.columns
    starts = np.arange(max(length_px - side_px, 0) + 1)
    touched = (spans.last >= starts[:, None]) & (spans.first <= starts[:, None] + side_px - 1)  # (positions, sites)
    different, which = np.unique(touched, axis=0, return_inverse=True)
    scores = []
    for sites in torch.from_numpy(different).to(member.values.device):
        mask = sites[:, None] if down else sites[None]
        scores.append(member.pool(torch.where(mask, member.least, member.values)))
    return torch.stack(scores)[torch.from_numpy(which.reshape(-1)).to(member.values.device)]
