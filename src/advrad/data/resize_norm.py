"""The largest factor by which resizing can lengthen an l2 change of an image."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from advrad.data.framing import Framing, as_framing
from advrad.data.images import reduction_px
from advrad.errors import DataError

Floats = npt.NDArray[np.float64]

#: Pixels of an image for one of the working image, along each side, up to which rounding is bounded.
MOST_TO_ONE = 40
#: Upper bound of :func:`resize_rounding` for every image file whose ratio is allowed and that was averaged over squares
#: of up to 80 px.
RESIZE_ROUNDING = 4e-5
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
        stop = min(start + 1024, length_px)
        # Two columns at least: PyTorch 2.13 resizes an image of one column with wrong weights.
        columns = (torch.arange(length_px)[:, None] == torch.arange(start, max(stop, start + 2))).float()
        shape = (size_px, columns.shape[1])
        found = F.interpolate(columns[None, None], size=shape, mode="bilinear", antialias=True)[0, 0]
        parts.append(found[:, : stop - start])
    return torch.cat(parts, 1).double().numpy()


@lru_cache(maxsize=1024)
def resize_norm(height_px: int, width_px: int, *sizes_px: int | tuple[int, int]) -> float:
    """Compute the largest factor by which resizing can lengthen an l2 change; shrinking shortens it.

    Resizing treats rows and columns separately, so its norm is the product of the norms of both matrices. Colour
    channels do not matter.

    Args:
        height_px: Height of the image as given.
        width_px: Width of the image as given.
        sizes_px: Sizes to which the image is resized, one after another: sides of squares, or height and width.

    Returns:
        The norm of the whole chain.

    Example:
        >>> round(resize_norm(256, 256, 128), 3)
        0.501
    """
    total = 1.0
    sides = [(size_px, size_px) if isinstance(size_px, int) else size_px for size_px in sizes_px]
    for side, length_px in enumerate((height_px, width_px)):
        matrix: Floats | None = None
        for old_px, new_px in itertools.pairwise((length_px, *(pair[side] for pair in sides))):
            if old_px != new_px:  # resizing to the same size changes nothing
                step = resize_matrix(old_px, new_px)
                matrix = step if matrix is None else step @ matrix
        if matrix is not None:
            # The smaller of the two Gram matrices has the same largest eigenvalue.
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            total *= float(np.sqrt(np.linalg.eigvalsh(gram)[-1]))
    return total * ROUNDING


def framed_norm(height_px: int, width_px: int, framing: Framing, *sizes_px: int) -> float:
    """Compute the largest factor by which the l2 norm of a change grows from image to working image.

    Padding is constant, so it adds nothing to a change.

    Args:
        height_px: Height of the image as given.
        width_px: Width of the image as given.
        framing: How the image becomes the working image.
        sizes_px: Sides of the squares to which the working image is resized, one after another.

    Returns:
        The norm of the whole chain; with padding, an upper bound.
    """
    if not framing.pad:
        return resize_norm(height_px, width_px, (framing.height_px, framing.width_px), *sizes_px)
    inner = resize_norm(height_px, width_px, framing.scaled_size(height_px, width_px))
    return inner * resize_norm(framing.height_px, framing.width_px, *sizes_px)


def read_norm(height_px: int, width_px: int, size_px: Framing | int) -> float:
    """Compute the largest factor by which reading a file at the working size can lengthen an l2 change.

    Args:
        height_px: Height of the image in the file.
        width_px: Width of the image in the file.
        size_px: Framing with which :func:`advrad.data.images.read_resized` reads it, or the side of a square to which
            it is stretched.

    Returns:
        The norm of reading.

    Example:
        >>> round(read_norm(512, 512, 256), 3) == round(resize_norm(512, 512, 256), 3)
        True
    """
    framing = as_framing(size_px)
    side_px = reduction_px(height_px, width_px, framing)
    # Averaging n pixels shortens a change by the root of n; at the edges, n is smaller.
    least = (height_px % side_px or side_px) * (width_px % side_px or side_px)
    rows, columns = (math.ceil(length_px / side_px) for length_px in (height_px, width_px))
    return framed_norm(rows, columns, framing) / math.sqrt(least) * ROUNDING


def framed_radius(
    height_px: int, width_px: int, framing: Framing, radius: float, norm: Literal["linf", "l2"], *, read: bool = False
) -> float:
    """Compute the radius that holds every change of a working image, for changes of the image within a radius.

    In linf it stays the same, because the weights of scaling are at least 0 and sum to 1, and padding is constant. In
    l2 it grows by at most the norm of scaling. What rounding can change is added.

    Args:
        height_px: Height of the image as given.
        width_px: Width of the image as given.
        framing: How the image becomes the working image.
        radius: Radius of the changes of the image, >= 0.
        norm: Norm of the changes.
        read: Whether the image is a file, whose pixels are averaged first if there are many.

    Raises:
        DataError: The image has too many pixels for one of the working image, see :func:`check_ratio`.

    Example:
        >>> framing = Framing.square(256)
        >>> framed_radius(256, 256, framing, 0.5, "l2")
        0.5
        >>> round(framed_radius(512, 512, framing, 0.5, "l2"), 2)
        0.25
    """
    if (height_px, width_px) == (framing.height_px, framing.width_px):
        return radius
    side_px = reduction_px(height_px, width_px, framing) if read else 1
    reduced, scaled = (height_px // side_px, width_px // side_px), framing.scaled_size(height_px, width_px)
    check_ratio(reduced, scaled)
    rounding = resize_rounding(reduced, scaled, side_px)
    if norm == "linf":
        return radius + rounding
    factor = read_norm(height_px, width_px, framing) if read else framed_norm(height_px, width_px, framing)
    return factor * radius + rounding * math.sqrt(3 * framing.height_px * framing.width_px)


def resize_terms(image_px: tuple[int, int], size_px: int) -> int:
    """Count the terms that are summed for a pixel when an image is resized to a square, along both sides together.

    Args:
        image_px: Height and width of the image.
        size_px: Side of the square.

    Example:
        >>> resize_terms((256, 1024), 256)  # the pixels below a triangle, along the longer side
        9
    """
    return sum(2 * math.ceil(max(length / size_px, 1)) + 1 for length in image_px if length != size_px)


def resize_rounding(image_px: tuple[int, int], working_px: tuple[int, int], side_px: int = 1) -> float:
    """Bound by how much rounding moves two images apart when they are resized in float32.

    Both are resized with the same weights, so the rounding of weights does not count: only that of the sums does, once
    for each image. A pixel is a sum over the pixels below a triangle along each side, of values in [0, 1] with weights
    of sum 1.

    Args:
        image_px: Height and width of the image.
        working_px: Height and width to which it is resized.
        side_px: Side of the squares over which it was averaged before.

    Returns:
        The bound, for each pixel.

    Example:
        >>> resize_rounding((1024, 1024), (256, 256)) < 3e-6
        True
    """
    sides = [2 * math.ceil(max(old / new, 1)) + 1 for old, new in zip(image_px, working_px, strict=True)]
    relative = (sum(sides) + 2 * side_px + 4) * 2.0**-24
    return 2 * relative / (1 - relative)


def check_ratio(image_px: tuple[int, int], working_px: tuple[int, int]) -> None:
    """Refuse an image whose rounding is not bounded: its pixels are sums of too many.

    Args:
        image_px: Height and width of the image.
        working_px: Height and width to which it is resized.

    Raises:
        DataError: More than :data:`MOST_TO_ONE` pixels become one along a side.
    """
    if any(old > MOST_TO_ONE * new for old, new in zip(image_px, working_px, strict=True)):
        height, width = image_px
        raise DataError(
            f"an image of {width} x {height} px is too large for bounds at {working_px[1]} x {working_px[0]} px: more"
            f" than {MOST_TO_ONE} pixels become one along a side; scale it down first"
        )
