"""Operator norms: how much an l2 change of an image can change its error maps.

A cell of an error map is a weighted mean of squares, ``E = |M d|^2``, where ``d`` is the difference of image and
reconstruction and M is linear and consists of averages only. So ``sqrt(E)`` changes by at most ``|M|`` times the length
of the change. All norms here are upper bounds of the true ones; those of single cells are within 1 in 1,000 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.certificates.order_statistics import Floats
from advrad.data.resize_norm import ROUNDING
from advrad.denoisers.base import SCALES
from advrad.detectors.score_config import NoiseView, ScoreConfig

#: Iterations of the power method for the averaged scales; the bound is valid after any number of them.
_ITERATIONS = 40
#: Side of the coarsest scale's cells, in pixels.
_COARSEST_PX = 2 ** (SCALES - 1)
_CHANNELS = 3


def _filter_matrix(size: int, filter_px: int) -> Floats:
    """Matrix that :func:`advrad.detectors.scoring.mean_filter` applies along one side, (size, size)."""
    if filter_px == 1:
        return np.eye(size)
    rows = F.avg_pool1d(torch.eye(size)[:, None], filter_px, 1, filter_px // 2, count_include_pad=False)
    return rows[:, 0].T.double().numpy()


def _side_weights(size: int, filter_px: int) -> list[Floats]:
    """Weights of every scale's errors in a map of averaged scales, along one side: (size, size / 2^level) each."""
    filtering, found = _filter_matrix(size, filter_px), []
    for level in range(SCALES):
        impulses = torch.eye(size // 2**level)[:, None]
        if level:
            impulses = F.interpolate(impulses, size=size, mode="linear", align_corners=False)
        found.append(filtering @ impulses[:, 0].T.double().numpy())
    return found


@dataclass(frozen=True, eq=False)
class MapNorms:
    """Operator norms of one error map.

    Attributes:
        cells: Norm of the map from an image, at the view's size, to ``sqrt(E)`` of each cell, (1, 1, h, w).
        sides: Level of each scale of the errors, with its weights along one side, (h, cells of the scale).
        share: Share of each scale in the map.
    """

    cells: Tensor
    sides: tuple[tuple[int, Tensor], ...]
    share: float

    def sum_norm(self, weights: Tensor) -> Tensor:
        """Bound the norm of the map from an image to the root of a weighted sum of cells, ``sqrt(sum_i w_i E_i)``.

        Neighbouring cells share pixels, so this is less than the norms of the single cells would give. It is the bound
        of Collatz and Wielandt at ``u = 1``, see :func:`_averaged_squares`; it is close if the weights are nearly even.

        Args:
            weights: Weights of the cells, (b, 1, h, w), >= 0.

        Returns:
            Norms, (b,).
        """
        total = 0.0
        for level, side in self.sides:
            side = side.to(weights)
            seen = side.T @ weights @ side / 4**level
            fine = 2 ** (level - self.sides[0][0])
            total = total + seen.repeat_interleave(fine, 2).repeat_interleave(fine, 3)
        largest: Tensor = torch.as_tensor(total).flatten(1).amax(1)
        return (largest * (self.share / _CHANNELS)).sqrt() * ROUNDING


def map_norms(view: NoiseView, config: ScoreConfig) -> tuple[MapNorms, ...]:
    """Compute the norms of a view's error maps, in the order of :func:`advrad.detectors.scoring.combine_scales`.

    Args:
        view: View of the score; its size matters.
        config: Score; its scales and filter matter.

    Returns:
        The norms of each error map.
    """
    return _map_norms(view.view_px, config.filter_px, config.scales == "separate")


@lru_cache(maxsize=64)
def _map_norms(size: int, filter_px: int, separate: bool) -> tuple[MapNorms, ...]:
    def cells(squares: Floats) -> Tensor:
        return torch.from_numpy(np.sqrt(squares) * ROUNDING).float()[None, None]

    if not separate:
        sides = enumerate(_side_weights(size, filter_px))
        averaged = tuple((level, torch.from_numpy(side).float()) for level, side in sides)
        return (MapNorms(cells(_averaged_squares(size, filter_px)), averaged, 1 / SCALES),)
    found = []
    for level in range(SCALES):
        here = size // 2**level
        side = torch.from_numpy(_filter_matrix(here, filter_px)).float()
        found.append(MapNorms(cells(_separate_squares(here, filter_px, level)), ((level, side),), 1.0))
    return tuple(found)


def _separate_squares(size: int, filter_px: int, level: int) -> Floats:
    """Squared cell norms of one scale, (size, size): its blocks do not overlap, so the largest weight decides."""
    largest = _filter_matrix(size, filter_px).max(1)
    squares: Floats = np.outer(largest, largest) / (_CHANNELS * 4**level)
    return squares


def _averaged_squares(size: int, filter_px: int) -> Floats:
    """Squared cell norms of the mean of all scales, (size, size).

    ``M^T M`` is block diagonal, with blocks as large as the coarsest cell, since finer cells lie within coarser ones. A
    block is ``N u = sum_l A_l^T w_l A_l u`` with A_l the mean over the cells of scale l. Its entries are not negative,
    so for any positive u its largest eigenvalue is at most the largest ratio ``(N u)_k / u_k`` (Collatz, Wielandt). The
    power method makes this bound tight.
    """
    patterns, pattern_of_cell = _patterns(_side_weights(size, filter_px))
    # At each scale: (cell rows, cell columns, blocks down, blocks across, y in block, x in block).
    weights = [p[:, None, :, None, :, None] * p[None, :, None, :, None, :] for p in patterns]
    u = np.ones(weights[0].shape)
    bound = np.full(u.shape[:4], np.inf)
    for _ in range(_ITERATIONS):
        image = _apply_blocks(weights, u)
        bound = np.minimum(bound, (image / u).max((-2, -1)))
        peak = image.max((-2, -1), keepdims=True)
        u = np.maximum(image / np.where(peak > 0, peak, 1), 1e-9)
    squares: Floats = bound.max((2, 3)) / (SCALES * _CHANNELS)
    return np.asarray(squares[pattern_of_cell[:, None], pattern_of_cell[None, :]])


def _patterns(weights: list[Floats]) -> tuple[list[Floats], npt.NDArray[np.intp]]:
    """Find the distinct weights along one side: most cells have the same ones, shifted by whole blocks.

    Args:
        weights: Weights of each scale, (size, size / 2^level).

    Returns:
        For each scale the distinct weights, (patterns, near blocks, cells in the block); and each cell's pattern,
        (size,).
    """
    size = len(weights[0])
    # (cell, block, cells of the scale in the block)
    blocks = [w.reshape(size, size // _COARSEST_PX, -1) for w in weights]
    touched = np.any([w.any(2) for w in blocks], axis=0)
    near = int(touched.sum(1).max())
    first = np.minimum(touched.argmax(1), touched.shape[1] - near)
    rows = [np.stack([w[cell, first[cell] : first[cell] + near] for cell in range(size)]) for w in blocks]
    flat = np.round(np.concatenate([row.reshape(size, -1) for row in rows], axis=1), 9)
    _, example, pattern_of_cell = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return [row[example] for row in rows], pattern_of_cell.reshape(-1)


def _apply_blocks(weights: list[Floats], u: Floats) -> Floats:
    """Compute ``N u`` of :func:`_averaged_squares` for many blocks at once, (..., side, side)."""
    total = np.zeros_like(u)
    side = u.shape[-1]
    for level, w in enumerate(weights):
        cell = 2**level
        means = u.reshape(*u.shape[:-2], side // cell, cell, side // cell, cell).mean((-3, -1))
        spread = w * means / cell**2
        total += np.repeat(np.repeat(spread, cell, -2), cell, -1)
    return total
