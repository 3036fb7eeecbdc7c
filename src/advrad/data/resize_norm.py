"""The largest factor by which resizing can lengthen an l2 change of an image."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from advrad.data.images import reduction_px

Floats = npt.NDArray[np.float64]

#: Factor on a norm that covers the rounding of weights, which are computed in float32.
ROUNDING = 1 + 1e-6


@lru_cache(maxsize=64)
def resize_matrix(length_px: int, size_px: int) -> Floats:
    """Compute the matrix that :func:`advrad.data.transforms.resize` applies along one side.

    Args:
        length_px: Length of the side before.
        size_px: Length of the side after.

    Returns:
        Matrix, (size_px, length_px).
    """
    parts = []
    for start in range(0, length_px, 1024):  # a square identity matrix of a large image would not fit in memory
        columns = (torch.arange(length_px)[:, None] == torch.arange(start, min(start + 1024, length_px))).float()
        shape = (size_px, columns.shape[1])
        parts.append(F.interpolate(columns[None, None], size=shape, mode="bilinear", antialias=True)[0, 0])
    return torch.cat(parts, 1).double().numpy()


@lru_cache(maxsize=1024)
def resize_norm(height_px: int, width_px: int, *sizes_px: int) -> float:
    """Compute the largest factor by which resizing can lengthen an l2 change; shrinking shortens it.

    Resizing treats rows and columns separately, so its norm is the product of the norms of both matrices. Colour
    channels do not matter.

    Args:
        height_px: Height of the image as given.
        width_px: Width of the image as given.
        sizes_px: Sides of the squares to which the image is resized, one after another.

    Returns:
        The norm of the whole chain.

    Example:
        >>> round(resize_norm(256, 256, 128), 3)
        0.501
    """
    total = 1.0
    for length_px in (height_px, width_px):
        matrix: Floats | None = None
        for old_px, new_px in itertools.pairwise((length_px, *sizes_px)):
            if old_px != new_px:  # resizing to the same size changes nothing
                step = resize_matrix(old_px, new_px)
                matrix = step if matrix is None else step @ matrix
        if matrix is not None:
            # The smaller of the two Gram matrices has the same largest eigenvalue.
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            total *= float(np.sqrt(np.linalg.eigvalsh(gram)[-1]))
    return total * ROUNDING


def read_norm(height_px: int, width_px: int, size_px: int) -> float:
    """Compute the largest factor by which reading a file at the working size can lengthen an l2 change.

    Args:
        height_px: Height of the image in the file.
        width_px: Width of the image in the file.
        size_px: Side of the square to which :func:`advrad.data.images.read_resized` resizes it.

    Returns:
        The norm of reading.

    Example:
        >>> round(read_norm(512, 512, 256), 3) == round(resize_norm(512, 512, 256), 3)
        True
    """
    side_px = reduction_px(height_px, width_px, size_px)
    # Averaging n pixels shortens a change by the root of n; at the edges, n is smaller.
    least = (height_px % side_px or side_px) * (width_px % side_px or side_px)
    rows, columns = (math.ceil(length_px / side_px) for length_px in (height_px, width_px))
    return resize_norm(rows, columns, size_px) / math.sqrt(least) * ROUNDING
