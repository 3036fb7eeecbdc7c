"""Open image files: find their format, and refuse what is no image, too large, half-written or of several frames.

A file with several frames is refused, because a verdict on the first frame would ignore the others. Exceptions are
formats whose further frames belong to the first: previews (MPO) and layers (PSD).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from advrad.data.completeness import check_end
from advrad.data.pieces import check_pieces
from advrad.data.pillow_limits import PILLOW_LIMITS
from advrad.data.signatures import RAW_SUFFIXES
from advrad.data.tiff import RAW_REASON, STARTS, TiffImage, open_tiff
from advrad.errors import ImageError
from advrad.utils.forking import ForkSafeLock

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE_PX = 16
"""Smallest accepted side of an image."""

LARGE_PIXELS = 32_000_000
"""Larger images are decoded one at a time, to bound the memory that several threads take together."""

_ONE_AT_A_TIME = ForkSafeLock()
_ONE_IMAGE_FORMATS = ("MPO", "PSD")
# The formats of IMAGE_SUFFIXES. Some others run another program (EPS), or hold an image whose size their header does
# not say (ICO, ICNS, FITS), so that no limit holds.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA", "PCX", "PSD")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Image.Image | TiffImage]:
    """Open an image; every error in the block becomes an ImageError.

    Args:
        path: Image file.
        max_pixels: Largest accepted width times height.
    """
    from PIL import Image

    with PILLOW_LIMITS.off(), as_image_errors(path):
        _check_file(path)
        start = _start(path, 16)
        check_pieces(path, start)
        zeros_from = check_end(path)
        if start.startswith(STARTS):
            if path.suffix.lower() in RAW_SUFFIXES or start[8:10] == b"CR":
                raise ImageError(path, RAW_REASON)
            with open_tiff(path, zeros_from) as tiff:
                check_size(path, tiff.width, tiff.height, max_pixels)
                tiff.check_parts(max_pixels)
                if not tiff.only_pillow:
                    with _ONE_AT_A_TIME if tiff.width * tiff.height > LARGE_PIXELS else nullcontext():
                        yield tiff
                    return
        elif start[4:8] == b"ftyp" and start[8:12] in _HEIC:
            _register_heic(path)
        with Image.open(path, formats=_readable()) as image:
            check_size(path, image.width, image.height, max_pixels)
            check_frames(path, image)
            with _ONE_AT_A_TIME if image.width * image.height > LARGE_PIXELS else nullcontext():
                yield image


@contextmanager
def as_image_errors(path: Path) -> Iterator[None]:
    """Turn every error in the block into an ImageError.

    Args:
        path: Image file.
    """
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
        # For damaged files decoders raise errors of nearly every type (SyntaxError, struct.error ...).
        raise ImageError(path, _damage(error)) from error


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that is too large.

    Args:
        path: Image file.
        width: Width in pixels.
        height: Height in pixels.
        max_pixels: Largest accepted width times height.

    Raises:
        ImageError: The image is too large.
    """
    if width * height > max_pixels:
        raise ImageError(
            path,
            f"is {width} x {height} px, more than the limit of {max_pixels / 1e6:g} "
            "million pixels (max_pixels); scale it down or raise the limit",
        )


def check_frames(path: Path, image: Image.Image) -> None:
    """Refuse an image of several frames.

    Args:
        path: Image file.
        image: The open image.

    Raises:
        ImageError: The image holds several frames.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _ONE_IMAGE_FORMATS:
        raise ImageError(path, f"holds {frames} frames; save each as a separate image")


def check_side(path: Path, width: int, height: int) -> None:
    """Refuse an image that is too small.

    Args:
        path: Image file.
        width: Width in pixels.
        height: Height in pixels.

    Raises:
        ImageError: A side is too short.
    """
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(path, f"is {width} x {height} px; at least {MIN_SIDE_PX} px on each side are needed")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ImageError(path, "is a folder, not an image")
    if not path.exists():
        raise ImageError(path, "there is no such file")
    if not path.is_file():
        raise ImageError(path, "is not a regular file")
    if path.stat().st_size == 0:
        raise ImageError(path, "is empty (0 bytes)")


def _readable() -> list[str]:
    """Names of the formats that are read and that this Pillow knows."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _start(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _what_else(path: Path) -> str:
    """Describe a file that is not an image."""
    start = _start(path, 512)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image; fetch it with `git lfs pull`"
    if path.suffix.lower() in RAW_SUFFIXES or start[4:12] == b"ftypcrx ":
        return RAW_REASON
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return "is AVIF, which this version of Pillow does not read; install a newer one: pip install 'pillow>=11.3'"
    text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    return "holds text, not an image" if text else "is not an image of a known format, or its start is damaged"


def _register_heic(path: Path) -> None:
    """Make Pillow read HEIC, which needs an extra."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError(path, "is HEIC, which needs another package; install it: pip install 'advrad[heif]'") from None
    register_heif_opener()


def _damage(error: Exception) -> str:
    text = " ".join(str(error).split())
    short = ("truncated", "failed to read", "cannot be reshaped", "too small")
    if any(sign in text.lower() for sign in short) or isinstance(error, EOFError):
        return "is cut short (truncated)"
    return f"is damaged or not supported ({text or type(error).__name__})"
