"""How much an l2 change of an image can change what is computed from it by averaging: operator norms.

A cell of an error map is a weighted mean of squares, ``E = |M d|^2`` with ``d`` the difference of image and
reconstruction and a linear M of nothing but averages. So ``sqrt(E)`` moves by at most ``|M|`` times the length of the
change. The norms here bound the true ones from above, and those of single cells come within 1 in 1,000 of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.base import SCALES
from advrad.detectors.score_config import NoiseView, ScoreConfig

Floats = npt.NDArray[np.float64]

#: The weights are computed in float32; this much more than the norm covers that.
_ROUNDING = 1 + 1e-6
#: Rounds of the power method for the norms of the coarse scales; each round's bound holds.
_ROUNDS = 40
_COARSEST = 2 ** (SCALES - 1)
_CHANNELS = 3


@lru_cache(maxsize=64)
def resize_matrix(length_px: int, size_px: int) -> Floats:
    """What :func:`advrad.data.transforms.resize` does along one side, (size_px, length_px)."""
    parts = []
    for start in range(0, length_px, 1024):  # a square for a large image would fill the memory
        columns = (torch.arange(length_px)[:, None] == torch.arange(start, min(start + 1024, length_px))).float()
        shape = (size_px, columns.shape[1])
        parts.append(F.interpolate(columns[None, None], size=shape, mode="bilinear", antialias=True)[0, 0])
    return torch.cat(parts, 1).double().numpy()


@lru_cache(maxsize=1024)
def resize_norm(height_px: int, width_px: int, *sizes_px: int) -> float:
    """Largest factor by which resizing can lengthen an l2 change; shrinking shortens it.

    Resizing works on rows and columns apart, so its norm is the product of the two, and neither the colours nor the
    other images of a batch matter.

    Args:
        height_px: of the image as given.
        width_px: of the image as given.
        sizes_px: of the squares it is resized to, one after another.
    """
    total = 1.0
    for length_px in (height_px, width_px):
        matrix: Floats | None = None
        for old_px, new_px in itertools.pairwise((length_px, *sizes_px)):
            if old_px != new_px:  # at equal size nothing changes
                step = resize_matrix(old_px, new_px)
                matrix = step if matrix is None else step @ matrix
        if matrix is not None:
            # Of the smaller of the two products, for the sake of large images.
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            total *= float(np.sqrt(np.linalg.eigvalsh(gram)[-1]))
    return total * _ROUNDING


def _filter_matrix(size: int, filter_px: int) -> Floats:
    """What :func:`advrad.detectors.scoring.mean_filter` does along one side, (size, size)."""
    if filter_px == 1:
        return np.eye(size)
    rows = F.avg_pool1d(torch.eye(size)[:, None], filter_px, 1, filter_px // 2, count_include_pad=False)
    return rows[:, 0].T.double().numpy()


def _weights(size: int, filter_px: int) -> list[Floats]:
    """For every scale, what a map of averaged scales makes of its errors along one side, (size, size / 2^level)."""
    filtering, found = _filter_matrix(size, filter_px), []
    for level in range(SCALES):
        impulses = torch.eye(size // 2**level)[:, None]
        if level:
            impulses = F.interpolate(impulses, size=size, mode="linear", align_corners=False)
        found.append(filtering @ impulses[:, 0].T.double().numpy())
    return found


@dataclass(frozen=True, eq=False)
class Kernel:
    """How one error map is made of squared differences.

    Attributes:
        cells: (1, 1, h, w) norm of the map from an image, at the look's view, to ``sqrt(E)`` of each cell.
        sides: by scale of the errors, the scale and the weights along one side, (h, cells of the scale).
        share: of each scale in the map.
    """

    cells: Tensor
    sides: tuple[tuple[int, Tensor], ...]
    share: float

    def sum_norm(self, weights: Tensor) -> Tensor:
        """Norm of the map from an image to the root of a weighted sum of cells, ``sqrt(sum_i w_i E_i)``.

        Cells that lie together share the pixels that they see, so this is less than each cell's own norm would make of
        it. Bounded by the ratio of Collatz and Wielandt at 1, see :func:`_averaged`: near the truth where the weights
        are nearly even.

        Args:
            weights: (b, 1, h, w), >= 0.

        Returns:
            (b,).
        """
        total = 0.0
        for level, side in self.sides:
            side = side.to(weights)
            seen = side.T @ weights @ side / 4**level
            fine = 2 ** (level - self.sides[0][0])
            total = total + seen.repeat_interleave(fine, 2).repeat_interleave(fine, 3)
        largest: Tensor = torch.as_tensor(total).flatten(1).amax(1)
        return (largest * (self.share / _CHANNELS)).sqrt() * _ROUNDING


def kernels(look: NoiseView, config: ScoreConfig) -> tuple[Kernel, ...]:
    """The kernels of a look's error maps, in the order of :func:`advrad.detectors.scoring.combine_scales`.

    Args:
        look: of the score.
        config: of the score; its scales and filter matter.
    """
    return _kernels(look.view_px, config.filter_px, config.scales == "separate")


@lru_cache(maxsize=64)
def _kernels(size: int, filter_px: int, apart: bool) -> tuple[Kernel, ...]:
    def cells(squares: Floats) -> Tensor:
        return torch.from_numpy(np.sqrt(squares) * _ROUNDING).float()[None, None]

    if not apart:
        sides = enumerate(_weights(size, filter_px))
        averaged = tuple((level, torch.from_numpy(side).float()) for level, side in sides)
        return (Kernel(cells(_averaged(size, filter_px)), averaged, 1 / SCALES),)
    found = []
    for level in range(SCALES):
        here = size // 2**level
        side = torch.from_numpy(_filter_matrix(here, filter_px)).float()
        found.append(Kernel(cells(_single(here, filter_px, level)), ((level, side),), 1.0))
    return tuple(found)


def _single(size: int, filter_px: int, level: int) -> Floats:
    """Squared norms for one scale: its blocks do not overlap, so the largest weight decides."""
    largest = _filter_matrix(size, filter_px).max(1)
    squares: Floats = np.outer(largest, largest) / (_CHANNELS * 4**level)
    return squares


def _averaged(size: int, filter_px: int) -> Floats:
    """Squared norms for the mean of all scales, (size, size).

    The matrix of the square is one of blocks as large as the coarsest cell, since finer cells lie within coarser ones.
    For a block it is ``N u = sum_l A_l^T w_l A_l u``, A_l the mean over cells of scale l. Its entries are not negative,
    so for any positive u its largest eigenvalue is at most the largest ratio ``(N u)_k / u_k`` (Collatz, Wielandt), and
    the power method brings the two together.
    """
    patterns, which = _patterns(_weights(size, filter_px))
    # (rows of cells, columns of cells, blocks down, blocks across, y in block, x in block) at each scale.
    weights = [p[:, None, :, None, :, None] * p[None, :, None, :, None, :] for p in patterns]
    u = np.ones(weights[0].shape)
    bound = np.full(u.shape[:4], np.inf)
    for _ in range(_ROUNDS):
        image = _apply(weights, u)
        bound = np.minimum(bound, (image / u).max((-2, -1)))
        peak = image.max((-2, -1), keepdims=True)
        u = np.maximum(image / np.where(peak > 0, peak, 1), 1e-9)
    squares: Floats = bound.max((2, 3)) / (SCALES * _CHANNELS)
    return np.asarray(squares[which[:, None], which[None, :]])


def _patterns(weights: list[Floats]) -> tuple[list[Floats], npt.NDArray[np.intp]]:
    """Weights along one side, without repetitions: most cells see the same ones, but for a move by whole blocks.

    Args:
        weights: by scale, (size, size / 2^level).

    Returns:
        By scale (patterns, near blocks, cells in the block), and for each cell its pattern, (size,).
    """
    size = len(weights[0])
    apart = [w.reshape(size, size // _COARSEST, -1) for w in weights]  # (cell, block, cells of the scale in the block)
    touched = np.any([w.any(2) for w in apart], axis=0)
    near = int(touched.sum(1).max())
    first = np.minimum(touched.argmax(1), touched.shape[1] - near)
    rows = [np.stack([w[cell, first[cell] : first[cell] + near] for cell in range(size)]) for w in apart]
    flat = np.round(np.concatenate([row.reshape(size, -1) for row in rows], axis=1), 9)
    _, example, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return [row[example] for row in rows], which.reshape(-1)


def _apply(weight: list[Floats], u: Floats) -> Floats:
    """``N u`` of :func:`_averaged`, for many blocks at once, (..., side, side)."""
    total = np.zeros_like(u)
    side = u.shape[-1]
    for level, w in enumerate(weight):
        cell = 2**level
        means = u.reshape(*u.shape[:-2], side // cell, cell, side // cell, cell).mean((-3, -1))
        spread = w * means / cell**2
        total += np.repeat(np.repeat(spread, cell, -2), cell, -1)
    return total
