"""Read single images: from a file to an array, and to the working size.

Images are read as a viewer shows them: rotated as their EXIF data say, palette and CMYK as colour. Colour profiles are
not applied, so equal numbers in two files stay equal.

Transparent pixels become mid-grey (128 of 255). Their stored colours are arbitrary and must not affect the score. White
or black would hide the edge of a white or black product, where defects are common.

A file with several frames is refused, because a verdict on the first frame would ignore the others. Exceptions are
formats whose further frames belong to the first: previews (MPO) and layers (PSD).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.pillow_limits import PILLOW_LIMITS
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import resize, to_tensor
from advrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from advrad.data.framing import Framing

Array = npt.NDArray[np.float32]

MIN_SIDE_PX = 16
"""Smallest accepted side of an image."""

REDUCE_ABOVE_PIXELS = 4_000_000
"""Larger images may be averaged over blocks of pixels before they become float; see :func:`read_image`."""

LARGE_PIXELS = 32_000_000
"""Larger images are decoded one at a time, to bound the memory that several threads take together."""

_ONE_AT_A_TIME = threading.Lock()
_ONE_IMAGE_FORMATS = ("MPO", "PSD")
_MID_GREY = (128, 128, 128)
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
    """

    width_px: int
    height_px: int
    kind: str


def read_image(path: Path, max_pixels: int = MAX_PIXELS, *, at_least_px: Framing | int | None = None) -> Array:
    """Read an image as colour.

    Grey values are repeated in three channels. 16-bit grey and 32-bit integers are divided by 65535; float images must
    lie in [0, 1]. Pillow reads 16-bit colour as 8-bit. For transparency, rotation and frames see the module.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height; checked before decoding.
        at_least_px: If given, images above 4 million pixels may be averaged over blocks of pixels to save memory;
            their sides stay at least twice this, or twice those of a framing. Use it for images that are resized to
            this size anyway.

    Returns:
        The image, (h, w, 3) float32 in [0, 1].

    Raises:
        ImageError: The file cannot be read, is too large, has a side below 16 px, or holds several frames.

    Example:
        >>> from advrad.data import read_image
        >>> read_image("part-0001.png").shape  # doctest: +SKIP
        (480, 640, 3)
    """
    return read_and_examine(path, max_pixels, at_least_px=at_least_px)[0]


def read_and_examine(
    path: Path, max_pixels: int = MAX_PIXELS, *, at_least_px: Framing | int | None = None
) -> tuple[Array, ImageInfo]:
    """Read an image as colour, with its size and pixel type.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height.
        at_least_px: Permission to reduce large images, as in :func:`read_image`.

    Returns:
        The image as of :func:`read_image`; size and pixel type of the file.

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    with _decoded(Path(path), max_pixels) as (values, white, info):
        reduced = values if at_least_px is None else _reduced(values, at_least_px)
        del values  # a large image is not held twice while it becomes float
    return _as_colour(reduced, white), info


def values_of_picture(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> tuple[npt.NDArray[Any], float]:
    """Pixels of an image of Pillow, read as from a file; the image itself is not changed.

    Args:
        image: Image of Pillow, of any mode; its file may still be unread.
        name: Name of the image, for errors.
        max_pixels: Largest accepted width times height.

    Returns:
        Pixels, (h, w) or (h, w, 3) of any type, and the value of white.

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    path = Path(name)
    with PILLOW_LIMITS.off(), _as_image_errors(path):
        _check_header(path, image, max_pixels)
        _check_side(path, image)
        return _colour(path, _rotated(image))


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


def read_two_sizes(path: Path, framing: Framing | int, max_pixels: int = MAX_PIXELS) -> tuple[Array, Tensor]:
    """Read an image once, at its own size and at the working size.

    Args:
        path: Image file.
        framing: How the image becomes the working image; a number for the side of a square to which it is stretched.
        max_pixels: Largest accepted width times height.

    Returns:
        The image as of :func:`read_image`, (h, w, 3), and as of :func:`read_resized`, (3, height_px, width_px).

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    with _decoded(Path(path), max_pixels) as (values, white, _):
        reduced = _reduced(values, framing)
    full = _as_colour(values, white)
    small = full if reduced is values else _as_colour(reduced, white)
    return full, _framed(small, framing)


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.bool_]:
    """Read a ground-truth mask: pixels that are neither black nor transparent are anomalous.

    Masks with values 0 and 255, 0 and 1, class numbers or palette colours are all understood. In a JPEG, where black is
    not exactly 0, pixels of at least half brightness are anomalous.

    Args:
        path: Mask file.
        max_pixels: Largest accepted width times height.

    Returns:
        The mask, (h, w) bool, True where anomalous.

    Raises:
        ImageError: The file cannot be read.
    """
    path = Path(path)
    with _opened(path, max_pixels) as image:
        lossy = image.format in ("JPEG", "MPO")
        image = _rotated(image)
        if _transparent(image):
            image = _on_background(image, (0, 0, 0))
        elif image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        values = np.asarray(image)
    defect = values >= 128 if lossy else values != 0
    return np.asarray(defect.any(axis=2) if defect.ndim == 3 else defect, dtype=np.bool_)


def read_resized(path: Path, framing: Framing | int, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image at the working size, in training and prediction alike.

    Args:
        path: Image file.
        framing: How the image becomes the working image; a number for the side of a square to which it is stretched.
        max_pixels: Largest accepted width times height.

    Returns:
        The image, (3, height_px, width_px) float32 in [0, 1].

    Raises:
        ImageError: The image cannot be read; see :func:`read_image`.
    """
    with _decoded(Path(path), max_pixels) as (values, white, _):
        return at_working_size(values, white, framing)


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
    with _opened(path, max_pixels) as image:
        _check_side(path, image)
        kind = _kind(image)
        width_px, height_px = image.size
        # EXIF orientations 5 to 8 swap the sides.
        if image.getexif().get(0x0112) in (5, 6, 7, 8):
            width_px, height_px = height_px, width_px
    return ImageInfo(width_px, height_px, kind)


@contextmanager
def _decoded(path: Path, max_pixels: int) -> Iterator[tuple[npt.NDArray[Any], float, ImageInfo]]:
    """Pixels of an image as (h, w) or (h, w, 3) of any type, the value of white, and size and pixel type."""
    with _opened(path, max_pixels) as image:
        _check_side(path, image)
        kind = _kind(image)
        image = _rotated(image)
        info = ImageInfo(image.width, image.height, kind)
        yield *_colour(path, image), info


def _as_colour(values: npt.NDArray[Any], white: float) -> Array:
    """Pixels of any type as (h, w, 3) float32 in [0, 1]."""
    result = values.astype(np.float32, copy=False)
    if white != 1:
        result = np.divide(result, np.float32(white), out=result if result is not values else None)
    return np.repeat(result[:, :, None], 3, axis=2) if result.ndim == 2 else result


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image; every error in the block becomes an ImageError."""
    from PIL import Image

    with PILLOW_LIMITS.off(), _as_image_errors(path):
        _check_file(path)
        with Image.open(path) as image:
            _check_header(path, image, max_pixels)
            with _ONE_AT_A_TIME if image.width * image.height > LARGE_PIXELS else nullcontext():
                yield image


@contextmanager
def _as_image_errors(path: Path) -> Iterator[None]:
    """Turn every error in the block into an ImageError."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(path, _what_else(path)) from None
    except MemoryError:
        raise ImageError(path, "needs more memory than is available; scale it down") from None
    except PermissionError:
        raise ImageError(path, "may not be read (permission denied)") from None
    except Exception as error:
        # For damaged files Pillow's decoders raise errors of nearly every type (SyntaxError, struct.error ...).
        raise ImageError(path, _damage(error)) from error


def _check_header(path: Path, image: Image.Image, max_pixels: int) -> None:
    """Refuse an image that is too large, or holds several frames."""
    if image.width * image.height > max_pixels:
        raise ImageError(
            path,
            f"is {image.width} x {image.height} px, more than the limit of {max_pixels / 1e6:g} "
            "million pixels (max_pixels); scale it down or raise the limit",
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _ONE_IMAGE_FORMATS:
        raise ImageError(path, f"holds {frames} frames; save each as a separate image")


def _check_side(path: Path, image: Image.Image) -> None:
    if min(image.size) < MIN_SIDE_PX:
        size = f"{image.width} x {image.height} px"
        raise ImageError(path, f"is {size}; at least {MIN_SIDE_PX} px on each side are needed")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ImageError(path, "is a folder, not an image")
    if not path.exists():
        raise ImageError(path, "there is no such file")
    if not path.is_file():
        raise ImageError(path, "is not a regular file")
    if path.stat().st_size == 0:
        raise ImageError(path, "is empty (0 bytes)")


def _what_else(path: Path) -> str:
    """Describe a file that is not an image."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image; fetch it with `git lfs pull`"
    text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    return "holds text, not an image" if text else "is not an image of a known format, or its start is damaged"


def _damage(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "is cut short (truncated)"
    return f"is damaged or not supported ({text or type(error).__name__})"


def _rotated(image: Image.Image) -> Image.Image:
    """The image, rotated as its EXIF data say; the given one is read, and not changed."""
    from PIL import ImageOps

    # Finds truncation here, before any conversion.
    image.load()
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    )


def _on_background(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    seen = image.convert("RGBA")
    ground = Image.new("RGB", image.size, colour)
    ground.paste(seen, mask=seen.getchannel("A"))
    return ground


def _colour(path: Path, image: Image.Image) -> tuple[npt.NDArray[Any], float]:
    """Pixels as (h, w) or (h, w, 3) of any type, and the value of white."""
    if image.mode.startswith("I;16"):
        return np.asarray(image), 65535
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        top, kind = (65535, "32-bit integer") if image.mode == "I" else (1, "float")
        # NaN fails the comparison, too. Stretching each image to its own range would hide defects of brightness.
        if not (low >= 0 and high <= top):
            raise ImageError(
                path,
                f"has {kind} values from {low:g} to {high:g}; save it with 8 or 16 bits, or as 0 to {top}",
            )
        return values, top
    if _transparent(image):
        return np.asarray(_on_background(image, _MID_GREY)), 255
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")), 255
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), 255


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
    """Pixels of a large image, averaged over squares; the shorter side stays at least twice ``at_least_px``.

    Works strip by strip, so that the float copy is never larger than one strip. Squares at the right and lower edge may
    be smaller.
    """
    height, width = values.shape[:2]
    side_px = reduction_px(height, width, at_least_px)
    if side_px == 1:
        return values
    starts = np.arange(0, width, side_px)
    counts = np.diff(starts, append=width).astype(np.float32)
    counts = counts.reshape(-1, *[1] * (values.ndim - 2))
    strips = [
        np.add.reduceat(values[top : top + side_px].mean(axis=0, dtype=np.float32), starts, axis=0) / counts
        for top in range(0, height, side_px)
    ]
    return np.stack(strips)


def _kind(image: Image.Image) -> str:
    mode = image.mode
    if mode.startswith("I;16"):
        return "16-bit grey"
    # Only the decoder's raw mode tells 16-bit colour from 8-bit.
    tile = getattr(image, "tile", None) or []
    if mode in ("RGB", "RGBA", "LA") and any(";16" in str(part) for part in tile):
        return "16-bit colour, read as 8-bit"
    base = _KINDS.get(mode if mode == "LAB" else mode.rstrip("AaX"), mode)
    return f"{base} with transparency" if _transparent(image) else base
