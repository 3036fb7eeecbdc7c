"""Choice of the feature vectors that a bank keeps: by what they show, or by fixed positions.

Source: Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach"; Roth et al.
2022, "Towards Total Recall in Industrial Anomaly Detection".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Dimensions to which vectors are projected at random for the choice; distances change little by it.
_PROJECTED = 64


def farthest_points(
    vectors: Tensor, count: int, generator: torch.Generator, advance: Callable[[int], None] = lambda items: None
) -> Tensor:
    """Choose vectors so that every vector is near a chosen one: in turn the one that is farthest from those chosen.

    This is the greedy solution of the k-centre problem, at most twice as far from the vectors as the best one, in a
    random projection.

    Args:
        vectors: Vectors, (n, c).
        count: Number of vectors to choose, >= 1; all where there are no more.
        generator: Source of the projection and of the first vector.
        advance: Called with the number of vectors that were chosen since the last call.

    Returns:
        Rows of the chosen vectors, (min(count, n),) int64, ascending.

    Example:
        >>> points = torch.tensor([[0.0], [0.1], [5.0], [9.0]])
        >>> farthest_points(points, 3, torch.Generator().manual_seed(0)).tolist()[1:]
        [2, 3]
    """
    if count >= len(vectors):
        return torch.arange(len(vectors))
    first = int(torch.randint(len(vectors), (1,), generator=generator))
    points = _projected(vectors, generator)
    norms = points.square().sum(1)
    chosen = torch.empty(count, dtype=torch.int64)
    nearest = torch.full_like(norms, torch.inf)
    row = first
    for place in range(count):
        chosen[place] = row
        # Squared distances to the new centre; its own is 0 whatever the rounding, so that it is not chosen again.
        torch.minimum(nearest, torch.addmv(norms + norms[row], points, points[row], alpha=-2), out=nearest)
        nearest[row] = -torch.inf
        row = int(nearest.argmax())
        if (place + 1) % 256 == 0:
            advance(256)
    return chosen.sort().values


def _projected(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors around their mean, in fewer dimensions if there are many."""
    centred = vectors - vectors.mean(0)
    if vectors.shape[1] <= _PROJECTED:
        return centred
    directions = torch.randn(vectors.shape[1], _PROJECTED, generator=generator, dtype=vectors.dtype)
    projected: Tensor = centred @ (directions / _PROJECTED**0.5)
    return projected


def fixed_positions(rows: int, columns: int, count: int) -> Tensor:
    """Choose positions of a grid, evenly and whatever the images show.

    Every second position of a grid is a chequered pattern, every second one of these a coarser grid, and so on.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        count: Largest number of positions, >= 1.

    Returns:
        Chosen positions, row by row, (m,) int64, ascending, with 1 <= m <= count.

    Example:
        >>> fixed_positions(4, 4, 8).tolist()
        [0, 2, 5, 7, 8, 10, 13, 15]
    """
    across, down = torch.arange(columns), torch.arange(rows)[:, None]
    step = 1
    while True:
        at_step = (down % step == (step - 1) // 2) & (across % step == (step - 1) // 2)
        chequered = at_step & ((down // step + across // step) % 2 == 0)
        for pattern in (at_step, chequered):
            found = pattern.flatten().nonzero().flatten()
            if len(found) <= count:
                return found if len(found) else torch.tensor([rows * columns // 2])
        step *= 2
