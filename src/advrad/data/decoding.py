"""Decode image files: open any format, and give its values with the value that is white.

Images are decoded as a viewer shows them: rotated as their EXIF data say, palette and CMYK as colour. Colour profiles
are not applied, so equal numbers in two files stay equal. Pillow reads all formats but TIFF, see
:mod:`advrad.data.tiff`, and PNG of 16-bit colour, of which it keeps 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.completeness import check_end, check_rows, png_ends_with_pixels
from advrad.data.opening import check_side, opened
from advrad.data.tiff import RawPixels, TiffImage
from advrad.data.transparency import is_transparent, shown_on_grey, values_on_grey
from advrad.data.value_range import ImageLevels, check_values

if TYPE_CHECKING:
    from PIL import Image

#: Formats whose 32-bit integers are 16-bit values: white is 65535.
_WIDENED = ("PNG", "PPM")
_UNCOMPRESSED = ("BMP", "DIB", "PPM", "TGA", "PCX")
_KINDS = {
    "1": "1-bit",
    "L": "8-bit grey",
    "P": "palette",
    "RGB": "8-bit colour",
    "CMYK": "CMYK",
    "I": "32-bit integer",
    "F": "float",
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Size and pixel type of an image.

    Attributes:
        width_px: Width after the rotation in the EXIF data.
        height_px: Height after the rotation in the EXIF data.
        kind: Pixel type in words, such as ``8-bit grey``.
        levels: Its values; None if only the header was read.
    """

    width_px: int
    height_px: int
    kind: str
    levels: ImageLevels | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded image.

    Attributes:
        values: Pixels, (h, w) or (h, w, 3), of any type; 0 is black.
        levels: The value of white, and the smallest and the largest value.
        kind: Pixel type in words.
    """

    values: npt.NDArray[Any]
    levels: ImageLevels
    kind: str

    @property
    def white(self) -> float:
        """The value of white."""
        return self.levels.white

    @property
    def info(self) -> ImageInfo:
        """Size, pixel type and values."""
        height, width = self.values.shape[:2]
        return ImageInfo(width, height, self.kind, self.levels)


@contextmanager
def decoded(path: Path, max_pixels: int, value_range: float | None) -> Iterator[Decoded]:
    """Decode an image; every error in the block becomes an ImageError.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height.
        value_range: Value of white; None if the file shall tell.
    """
    with opened(path, max_pixels) as image:
        check_side(path, image.width, image.height)
        yield decode(path, image, value_range)


def decode(path: Path, image: Image.Image | TiffImage, value_range: float | None = None) -> Decoded:
    """Decode an open image.

    Args:
        path: Its file, for errors.
        image: The image.
        value_range: Value of white; None if the file shall tell.

    Raises:
        ImageError: It is damaged, shows nothing, or has values outside of its range.
    """
    kind = kind_of(image)
    pixels, doubt = _pixels(path, image, kind)
    levels = check_values(path, pixels.values, pixels.white, kind, value_range)
    low, high = levels.low, levels.high
    values = pixels.values
    if pixels.inverted:
        # Whole numbers stay in their type; no value exceeds white.
        values = (levels.white - values).astype(values.dtype, copy=False)
        low, high = levels.white - high, levels.white - low
    return Decoded(values, ImageLevels(levels.white, low, high, doubt), kind)


def _pixels(path: Path, image: Image.Image | TiffImage, kind: str) -> tuple[RawPixels, str]:
    """The pixels after the rotation, and a sign of damage."""
    if isinstance(image, TiffImage):
        read = image.read()
        if isinstance(read, RawPixels):
            turned = np.ascontiguousarray(turn(read.values, image.orientation))
            return RawPixels(turned, read.white, read.inverted), image.doubt
        shown = colour(path, read, "TIFF")
        return RawPixels(turn(shown.values, image.orientation), shown.white), image.doubt
    deep, row_order = is_deep_png(image), _row_order(image)
    image.load()  # finds truncation here, before any conversion
    doubt = _doubt(path, image, row_order)
    if deep:
        return _deep_png(path, image), doubt
    return colour(path, rotated(image), image.format), doubt


def kind_of(image: Image.Image | TiffImage) -> str:
    """The pixel type of an image in words.

    Args:
        image: An open image.
    """
    if isinstance(image, TiffImage):
        return image.kind
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in _WIDENED):
        return "16-bit grey"
    base = _KINDS.get(mode if mode == "LAB" else mode.rstrip("AaX"), mode)
    if is_deep_png(image):
        grey = "LA;16" in str(getattr(image, "tile", ""))
        base = "16-bit grey" if grey else "16-bit colour"
    return f"{base} with transparency" if is_transparent(image) else base


def _row_order(image: Image.Image) -> int:
    """1 if the rows of a file are stored as they are from the top, -1 from the bottom, 0 if they are compressed."""
    tiles = getattr(image, "tile", None) or []
    if image.format not in _UNCOMPRESSED or len(tiles) != 1 or tiles[0][0] not in ("raw", "ppm", "pcx"):
        return 0
    arguments = tiles[0][3]
    return -1 if isinstance(arguments, tuple) and arguments[-1] == -1 else 1


def _doubt(path: Path, image: Image.Image, row_order: int) -> str:
    """Judge zeros at the end of a file that is not compressed."""
    if not row_order or (zeros_from := check_end(path)) is None:
        return ""
    values = np.asarray(image)
    if image.format == "PCX" and values.ndim == 3:  # each row is stored colour by colour
        values = values.transpose(0, 2, 1).reshape(-1, values.shape[1])
    if image.format == "PPM" and image.mode == "1":
        values = ~values  # there, zero is white
    return check_rows(path, values[::row_order], zeros_from)


def turn(values: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Rotate and mirror values as an orientation tag says.

    Args:
        values: Values, (h, w) or (h, w, c).
        orientation: The tag, 1 to 8.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def rotated(image: Image.Image) -> Image.Image:
    """The image, rotated as its EXIF data say; the given one is read, and not changed.

    Args:
        image: Image of Pillow.
    """
    from PIL import ImageOps

    image.load()
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def orientation_of(path: Path, image: Image.Image | TiffImage) -> int:
    """The orientation tag of an open image, from its header alone if the format allows.

    Args:
        path: Its file.
        image: The image.

    Returns:
        The tag, 1 to 8; 1 where there is none.
    """
    from PIL import Image

    if isinstance(image, TiffImage):
        return image.orientation
    # The method of PNG images decodes the pixels, because metadata may follow them.
    known = image.format == "PNG" and png_ends_with_pixels(path)
    tag = (Image.Image.getexif(image) if known else image.getexif()).get(0x0112, 1)
    return int(tag) if tag in range(1, 9) else 1


def is_deep_png(image: Image.Image) -> bool:
    """Whether a PNG has 16-bit colour or transparency, of which Pillow keeps 8 bits.

    Args:
        image: The image before it is loaded: only the raw mode tells.
    """
    tile = getattr(image, "tile", None) or []
    return image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(part) for part in tile)


def _deep_png(path: Path, image: Image.Image) -> RawPixels:
    """All 16 bits of a PNG."""
    import imagecodecs

    values = imagecodecs.png_decode(path.read_bytes())
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values = values_on_grey(path, values[:, :, :-1], values[:, :, -1:], 65535)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return RawPixels(turn(values, image.getexif().get(0x0112, 1)), 65535)


def colour(path: Path, image: Image.Image, format: str | None) -> RawPixels:
    """The pixels of an image of Pillow.

    Args:
        path: Its file, for errors.
        image: Image of any mode, rotated.
        format: Name of the format of its file; None for an image from memory.

    Raises:
        ImageError: It is transparent everywhere.
    """
    if image.mode.startswith("I;16"):
        return RawPixels(np.asarray(image), 65535)
    if image.mode in ("I", "F"):
        white = 1 if image.mode == "F" else 65535 if format in _WIDENED else None
        return RawPixels(np.asarray(image), white)
    if is_transparent(image):
        return RawPixels(np.asarray(shown_on_grey(path, image)), 255)
    if image.mode in ("1", "L"):
        return RawPixels(np.asarray(image.convert("L")), 255)
    return RawPixels(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), 255)
