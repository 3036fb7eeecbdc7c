"""Read single images: from a file to an array, and to the working size.

How files are decoded, and what a file says about its values, is in :mod:`advrad.data.decoding` and
:mod:`advrad.data.value_range`; what transparent pixels become, in :mod:`advrad.data.transparency`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.decoding import Decoded, colour, decoded, kind_of, orientation_of, rotated
from advrad.data.decoding import ImageInfo as ImageInfo
from advrad.data.mask_values import marked_pixels
from advrad.data.opening import LARGE_PIXELS as LARGE_PIXELS
from advrad.data.opening import MIN_SIDE_PX as MIN_SIDE_PX
from advrad.data.opening import as_image_errors, check_frames, check_side, check_size, opened
from advrad.data.pillow_limits import PILLOW_LIMITS
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import resize, to_tensor
from advrad.data.value_range import check_values
from advrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from advrad.data.framing import Framing

Array = npt.NDArray[np.float32]

REDUCE_ABOVE_PIXELS = 4_000_000
"""Larger images may be averaged over blocks of pixels before they become float; see :func:`read_image`."""


def read_image(
    path: Path,
    max_pixels: int = MAX_PIXELS,
    *,
    at_least_px: Framing | int | None = None,
    value_range: float | None = None,
) -> Array:
    """Read an image as colour.

    Grey values are repeated in three channels. White is the largest value that the bits of the file allow, and 1 for
    floats. Files of signed or of more than 16 bits do not say which value is white, so ``value_range`` must. For
    transparency, rotation and frames see :mod:`advrad.data.decoding`.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height; checked before decoding.
        at_least_px: If given, images above 4 million pixels may be averaged over blocks of pixels to save memory;
            their sides stay at least twice this, or twice those of a framing. Use it for images that are resized to
            this size anyway.
        value_range: Value of white, > 0, such as 4095 for values of 12 bits in a file of 16; None if the file or the
            framing tells it. Without it, images of another range than the training images of a framing are refused.

    Returns:
        The image, (h, w, 3) float32 in [0, 1].

    Raises:
        ImageError: The file cannot be read, is too large, has a side below 16 px, holds several frames, is transparent
            everywhere or half-written, or has values outside of its range.

    Example:
        >>> from advrad.data import read_image
        >>> read_image("part-0001.png").shape  # doctest: +SKIP
        (480, 640, 3)
    """
    return read_and_examine(path, max_pixels, at_least_px=at_least_px, value_range=value_range)[0]


def read_and_examine(
    path: Path,
    max_pixels: int = MAX_PIXELS,
    *,
    at_least_px: Framing | int | None = None,
    value_range: float | None = None,
) -> tuple[Array, ImageInfo]:
    """Read an image as colour, with its size, pixel type and values.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height.
        at_least_px: Permission to reduce large images, as in :func:`read_image`.
        value_range: Value of white, as in :func:`read_image`.

    Returns:
        The image as of :func:`read_image`; size, pixel type and values of the file.

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    with _decoded(Path(path), max_pixels, at_least_px, value_range) as found:
        info, white = found.info, found.white
        reduced = found.values if at_least_px is None else _reduced(found.values, at_least_px)
        del found  # a large image is not held twice while it becomes float
    return _as_colour(reduced, white), info


def read_own_size(path: Path, framing: Framing | None, max_pixels: int, value_range: float | None) -> Array:
    """Read an image at its own size, with the values that a detector takes.

    Args:
        path: Image file.
        framing: Framing of the detector; None if it has none.
        max_pixels: Largest accepted width times height.
        value_range: Value of white, as in :func:`read_image`.

    Returns:
        The image, (h, w, 3) float32 in [0, 1].

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    with _decoded(Path(path), max_pixels, framing, value_range) as found:
        return _as_colour(found.values, found.white)


def read_pixels8(
    path: Path, framing: Framing | None = None, max_pixels: int = MAX_PIXELS, value_range: float | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image at its own size in 8 bits, as an exported detector takes it.

    Args:
        path: Image file.
        framing: Framing of the detector; None if it has none.
        max_pixels: Largest accepted width times height.
        value_range: Value of white, as in :func:`read_image`.

    Returns:
        The image, (h, w, 3) uint8. Values of files of 8 bits stay as they are; others are rounded, see
        :func:`as_8_bits`.

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    return read_and_examine8(path, framing, max_pixels, value_range)[0]


def read_and_examine8(
    path: Path, framing: Framing | None = None, max_pixels: int = MAX_PIXELS, value_range: float | None = None
) -> tuple[npt.NDArray[np.uint8], ImageInfo]:
    """Read an image as :func:`read_pixels8` does, with its size, pixel type and values.

    Args:
        path: Image file.
        framing: Framing of the detector; None if it has none.
        max_pixels: Largest accepted width times height.
        value_range: Value of white, as in :func:`read_image`.

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    with _decoded(Path(path), max_pixels, framing, value_range) as found:
        return as_8_bits(found.values, found.white), found.info


def as_8_bits(values: npt.NDArray[Any], white: float) -> npt.NDArray[np.uint8]:
    """Round decoded pixels to 8 bits; grey is repeated in three channels.

    Args:
        values: Pixels, (h, w) or (h, w, 3), from 0 to white.
        white: The value of white.

    Returns:
        The pixels, (h, w, 3), where 255 is white.

    Example:
        >>> as_8_bits(np.array([[0, 32896, 65535]], dtype=np.uint16), 65535)[0, :, 0].tolist()
        [0, 128, 255]
    """
    if values.dtype != np.uint8 or white != 255:
        scaled = values.astype(np.float32) * np.float32(255 / white)
        values = np.rint(scaled).clip(0, 255).astype(np.uint8)
    if values.ndim == 2:
        return np.repeat(values[:, :, None], 3, axis=2)
    return np.require(values, requirements=["C", "W"])  # PyTorch warns of arrays that cannot be written


@contextmanager
def _decoded(
    path: Path, max_pixels: int, framing: Framing | int | None, value_range: float | None = None
) -> Iterator[Decoded]:
    """Decode an image with the white that is given, or that a framing says; refuse what it was not trained for."""
    white, known = value_range, None
    if white is None and not isinstance(framing, int | None):
        white, known = framing.value_range, framing.trained_range
    with decoded(path, max_pixels, white) as found:
        if known is not None and (reason := known.refusal(found.levels)) is not None:
            raise ImageError(path, reason)
        yield found


def values_of_picture(
    image: Image.Image, name: str, max_pixels: int = MAX_PIXELS, value_range: float | None = None
) -> tuple[npt.NDArray[Any], float]:
    """Pixels of an image of Pillow, read as from a file; the image itself is not changed.

    Args:
        image: Image of Pillow, of any mode; its file may still be unread.
        name: Name of the image, for errors.
        max_pixels: Largest accepted width times height.
        value_range: Value of white, > 0; None if the image tells it.

    Returns:
        Pixels, (h, w) or (h, w, 3) of any type, and the value of white.

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    path = Path(name)
    with PILLOW_LIMITS.off(), as_image_errors(path):
        check_size(path, image.width, image.height, max_pixels)
        check_frames(path, image)
        check_side(path, image.width, image.height)
        kind = kind_of(image)
        pixels = colour(path, rotated(image), image.format)
        return pixels.values, check_values(path, pixels.values, pixels.white, kind, value_range).white


def at_working_size(values: npt.NDArray[Any], white: float, framing: Framing | int) -> Tensor:
    """Bring decoded pixels to the working size, for files and arrays alike.

    Args:
        values: Pixels, (h, w) or (h, w, 3), of any type.
        white: The value of white.
        framing: How the image becomes the working image; a number for the side of a square to which it is stretched.

    Returns:
        The image, (3, height_px, width_px) float32 in [0, 1].
    """
    return _framed(_as_colour(_reduced(values, framing), white), framing)


@dataclass(frozen=True, slots=True, eq=False)
class WorkingImage:
    """An image file at the working size.

    Attributes:
        resized: The image as of :func:`read_resized`, (3, height_px, width_px) float32 in [0, 1].
        full: The image at its own size, (h, w, 3) float32 in [0, 1]; None if it was not asked for.
        info: Size, pixel type and values of the file.
    """

    resized: Tensor
    full: Array | None
    info: ImageInfo


def read_working_image(
    path: Path, framing: Framing | int, max_pixels: int = MAX_PIXELS, *, keep_full: bool = False
) -> WorkingImage:
    """Read an image once, at the working size and, if wanted, at its own.

    Args:
        path: Image file.
        framing: How the image becomes the working image; a number for the side of a square to which it is stretched.
        max_pixels: Largest accepted width times height.
        keep_full: Whether the image is wanted at its own size, too.

    Raises:
        ImageError: The image cannot be read, see :func:`read_image`, or has another range than the training images of
            the framing.
    """
    with _decoded(Path(path), max_pixels, framing) as found:
        reduced = _reduced(found.values, framing)
    full = _as_colour(found.values, found.white) if keep_full else None
    small = full if full is not None and reduced is found.values else _as_colour(reduced, found.white)
    return WorkingImage(_framed(small, framing), full, found.info)


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.bool_]:
    """Read a ground-truth mask: pixels that are neither black nor transparent are anomalous.

    Masks with values 0 and 255, 0 and 1, class numbers or palette colours are all understood; for palettes, losses of
    compression and floats see :mod:`advrad.data.mask_values`.

    Args:
        path: Mask file.
        max_pixels: Largest accepted width times height.

    Returns:
        The mask, (h, w) bool, True where anomalous.

    Raises:
        ImageError: The file cannot be read.
    """
    path = Path(path)
    with opened(path, max_pixels) as image:
        return marked_pixels(path, image)


def read_resized(path: Path, framing: Framing | int, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image at the working size, in training and prediction alike.

    Args:
        path: Image file.
        framing: How the image becomes the working image; a number for the side of a square to which it is stretched.
        max_pixels: Largest accepted width times height.

    Returns:
        The image, (3, height_px, width_px) float32 in [0, 1].

    Raises:
        ImageError: The image cannot be read; see :func:`read_working_image`.
    """
    return read_working_image(path, framing, max_pixels).resized


def _framed(image: Array, framing: Framing | int) -> Tensor:
    """The working image, (3, height_px, width_px), of an image, (h, w, 3)."""
    images = to_tensor(image)[None]
    return (resize(images, framing) if isinstance(framing, int) else framing.apply(images))[0]


def examine(path: Path, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read size and pixel type of an image, from its header alone if the format allows.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height.

    Raises:
        ImageError: The image cannot be read; damage behind the header may go unnoticed.
    """
    path = Path(path)
    with opened(path, max_pixels) as image:
        check_side(path, image.width, image.height)
        kind = kind_of(image)
        width_px, height_px = image.width, image.height
        if orientation_of(path, image) in (5, 6, 7, 8):  # these swap the sides
            width_px, height_px = height_px, width_px
    return ImageInfo(width_px, height_px, kind)


def _as_colour(values: npt.NDArray[Any], white: float) -> Array:
    """Pixels of any type as (h, w, 3) float32 in [0, 1]."""
    result = values.astype(np.float32, copy=False)
    if white != 1:
        result = np.divide(result, np.float32(white), out=result if result is not values else None)
    return np.repeat(result[:, :, None], 3, axis=2) if result.ndim == 2 else result


def reduction_px(height_px: int, width_px: int, at_least_px: Framing | int) -> int:
    """Side of the squares over which a large image is averaged while it is read; 1 for an image that is kept.

    Args:
        height_px: Height of the image.
        width_px: Width of the image.
        at_least_px: Half of the least length of the shorter side after averaging; or the framing of the image, whose
            working size both sides stay twice as large as.
    """
    if height_px * width_px <= REDUCE_ABOVE_PIXELS:
        return 1
    if isinstance(at_least_px, int):
        return max(1, min(height_px, width_px) // (2 * at_least_px))
    rows, columns = at_least_px.scaled_size(height_px, width_px)
    return max(1, min(height_px // (2 * rows), width_px // (2 * columns)))


def _reduced(values: npt.NDArray[Any], at_least_px: Framing | int) -> npt.NDArray[Any]:
    """Pixels of a large image, averaged over squares; the shorter side stays at least twice ``at_least_px``."""
    height, width = values.shape[:2]
    return averaged(values, reduction_px(height, width, at_least_px))


def averaged(values: npt.NDArray[Any], side_px: int) -> npt.NDArray[Any]:
    """Average pixels over squares, strip by strip, so that the float copy is never larger than one strip.

    Squares at the right and lower edge may be smaller.

    Args:
        values: Pixels, (h, w) or (h, w, c), of any type.
        side_px: Side of the squares, >= 1.

    Returns:
        The means, float32; for squares of one pixel the pixels as they are.

    Example:
        >>> averaged(np.array([[1, 3, 5], [1, 3, 7]]), 2).tolist()
        [[2.0, 6.0]]
    """
    if side_px == 1:
        return values
    height, width = values.shape[:2]
    starts = np.arange(0, width, side_px)
    counts = np.diff(starts, append=width).astype(np.float32)
    counts = counts.reshape(-1, *[1] * (values.ndim - 2))
    strips = [
        np.add.reduceat(values[top : top + side_px].mean(axis=0, dtype=np.float32), starts, axis=0) / counts
        for top in range(0, height, side_px)
    ]
    return np.stack(strips)
