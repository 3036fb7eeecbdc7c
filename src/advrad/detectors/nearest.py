"""Features at positions, and their nearest neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.onnx import is_in_onnx_export

from advrad.utils.extremes import place_of_least

#: Number of queries whose distances to the whole bank are in memory at a time.
_CHUNK = 256


def concatenate_maps(maps: list[Tensor]) -> Tensor:
    """Resize feature maps to the size of the first and concatenate their channels.

    Args:
        maps: Feature maps, (b, c_l, h_l, w_l) each, the finest first.

    Returns:
        Features, (b, sum of c_l, h_0, w_0). Differentiable.
    """
    size = maps[0].shape[-2:]
    larger = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in maps[1:]]
    return torch.cat([maps[0], *larger], dim=1)


def flatten_positions(maps: Tensor) -> Tensor:
    """Reshape maps (b, c, h, w) to one feature vector per position, (b, h * w, c)."""
    return maps.flatten(2).transpose(1, 2)


def nearest_neighbours(queries: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the nearest neighbours of features in a memory bank.

    The search itself runs without gradients, since its result is piecewise constant in the queries. The distances are
    computed again with gradients.

    Args:
        queries: Query features, (q, c).
        bank: Features of the memory bank, (n, c).
        count: Number of neighbours; all of the bank if it is smaller.

    Returns:
        Squared Euclidean distances, ascending up to rounding, and the indices of the neighbours, (q, min(count, n))
        each. The distances are differentiable in the queries.
    """
    count = min(count, len(bank))
    with torch.no_grad():
        rows = _nearest_rows(queries, bank, count)
    return (queries[:, None] - bank[rows]).square().sum(2), rows


def _nearest_rows(queries: Tensor, bank: Tensor, count: int) -> Tensor:
    """Indices of the nearest neighbours, (q, count), nearest first.

    A squared distance is ``|b|^2 - 2 q b`` plus a number of its query. Everything is shifted by the mean of the bank
    first, so that distances keep their digits far from the origin.
    """
    middle = bank.mean(0)
    shifted = bank - middle
    norms, columns, found = shifted.square().sum(1), shifted.T, []
    if is_in_onnx_export():  # one product: a graph needs no chunks
        distances = norms - 2 * (queries - middle) @ columns
        return distances.argmin(1, keepdim=True) if count == 1 else distances.topk(count, largest=False).indices
    for part in torch.split(queries - middle, _CHUNK):
        distances = torch.addmm(norms, part, columns, alpha=-2)
        nearest = place_of_least(distances)[:, None] if count == 1 else distances.topk(count, largest=False).indices
        found.append(nearest)
    return torch.cat(found)
