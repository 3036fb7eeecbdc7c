"""Single images: from a file to an array, and to the working size.

What is read is what a viewer would show: turned as its EXIF note says, palette and CMYK as colour. Colour
profiles are not applied, so equal numbers in a file stay equal numbers here.

Transparency is laid on mid-grey (128 of 255). The colours that a file stores under transparent pixels are
chance and must not be judged. White or black would hide the edge of a white or black product, where defects
often are; against mid-grey both show.

Pillow can read more than one frame, but a verdict on the first frame of several would silently skip the
others, so such a file is refused. The one exception are formats whose further frames belong to the first: a
camera's preview (MPO) and layers (PSD).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import resize, to_tensor
from advrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MIN_SIDE_PX = 16
"""An image with a smaller side shows no product."""

REDUCE_ABOVE_PIXELS = 4_000_000
"""Larger images are averaged over whole blocks of pixels before they become float, if the caller allows."""

LARGE_PIXELS = 32_000_000
"""Larger images are decoded one at a time, so that threads do not fill the memory together."""

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
    """What an image is, as it will be seen.

    Attributes:
        width_px: after turning as EXIF says.
        height_px: after turning as EXIF says.
        kind: its pixels in words, such as ``8-bit grey``.
    """

    width_px: int
    height_px: int
    kind: str


class _PillowSettings:
    """Pillow's own bound and warnings, put aside while any thread reads.

    Pillow's bound is one global number, which warns from 89 MP on and refuses from 179 MP on. The bound here
    is an argument and is checked before anything is decoded. Both Pillow's number and Python's warning
    filters belong to the whole process, so threads are counted: the first to come puts them aside, the last
    to go puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._bound: int | None = None
        self._warnings: warnings.catch_warnings[None] | None = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        from PIL import Image

        with self._lock:
            if self._users == 0:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
                self._bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._warnings is not None:
                    Image.MAX_IMAGE_PIXELS = self._bound
                    self._warnings.__exit__(None, None, None)


_SETTINGS = _PillowSettings()


def read_image(path: Path, max_pixels: int = MAX_PIXELS, *, at_least_px: int | None = None) -> npt.NDArray[np.float32]:
    """Read one image as colour.

    Grey is repeated to three channels. 16-bit grey keeps all its bits and is divided by 65535, whatever its
    brightest pixel; so are 32-bit integers, if they fit; float images must already lie in [0, 1]. Pillow
    reads 16-bit colour as 8-bit. See the module for transparency, turning and several frames.

    Args:
        path: the file.
        max_pixels: bound on width x height, checked before decoding.
        at_least_px: if given, an image above 4 MP may come back smaller (averaged over whole blocks of
            pixels), its shorter side still at least twice this. Saves memory where it will be resized to this
            size anyway.

    Returns:
        (h, w, 3) float32 in [0, 1].

    Raises:
        ImageError: it cannot be read, is too large, smaller than 16 px or holds several frames.
    """
    return read_and_examine(path, max_pixels, at_least_px=at_least_px)[0]


def read_and_examine(
    path: Path, max_pixels: int = MAX_PIXELS, *, at_least_px: int | None = None
) -> tuple[npt.NDArray[np.float32], ImageInfo]:
    """Read one image as colour, and say what it is.

    Args:
        path: as in `read_image`.
        max_pixels: as in `read_image`.
        at_least_px: as in `read_image`.

    Returns:
        The image as `read_image` gives it, and what it is in its file.

    Raises:
        ImageError: as in `read_image`.
    """
    path = Path(path)
    with _opened(path, max_pixels) as image:
        _check_side(path, image)
        kind = _kind(image)
        _load_turned(image)
        info = ImageInfo(image.width, image.height, kind)
        values, top = _colour(path, image)
        if at_least_px is not None and values.shape[0] * values.shape[1] > REDUCE_ABOVE_PIXELS:
            values = _block_means(values, min(values.shape[:2]) // (2 * at_least_px))
    del image  # a large image is not held twice while it becomes float
    result = values.astype(np.float32, copy=False)
    if top != 1:
        result = np.divide(result, np.float32(top), out=result if result is not values else None)
    if result.ndim == 2:
        result = np.repeat(result[:, :, None], 3, axis=2)
    return result, info


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.bool_]:
    """Read a ground-truth mask: whatever is neither black nor transparent is defect.

    So masks of 0 and 255, of 0 and 1, of small class numbers and of palette colours all mean the same. In a
    JPEG, whose black is never quite black, the defect begins at half brightness.

    Returns:
        (h, w) bool, True where defective.

    Raises:
        ImageError: it cannot be read.
    """
    path = Path(path)
    with _opened(path, max_pixels) as image:
        lossy = image.format in ("JPEG", "MPO")
        _load_turned(image)
        if _transparent(image):
            image = _laid_on(image, (0, 0, 0))
        elif image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        values = np.asarray(image)
    defect = values >= 128 if lossy else values != 0
    return np.asarray(defect.any(axis=2) if defect.ndim == 3 else defect, dtype=np.bool_)


def read_resized(path: Path, size_px: int, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read one image at the working size: the way every image takes, in training as later in use.

    Returns:
        (3, size_px, size_px) float32 in [0, 1].

    Raises:
        ImageError: as in `read_image`.
    """
    return resize(to_tensor(read_image(path, max_pixels, at_least_px=size_px))[None], size_px)[0]


def examine(path: Path, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Say what an image is, from its header alone where the format allows.

    Args:
        path: the file.
        max_pixels: bound on width x height.

    Raises:
        ImageError: as in `read_image`, but damage behind the header may go unseen.
    """
    path = Path(path)
    with _opened(path, max_pixels) as image:
        _check_side(path, image)
        kind = _kind(image)
        width_px, height_px = image.size
        # EXIF 5 to 8 are the four turns that swap the sides.
        if image.getexif().get(0x0112) in (5, 6, 7, 8):
            width_px, height_px = height_px, width_px
    return ImageInfo(width_px, height_px, kind)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image; every failure in the block becomes a ImageError in plain words."""
    from PIL import Image, UnidentifiedImageError

    with _SETTINGS.aside():
        try:
            _check_file(path)
            with Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        path,
                        f"is {image.width} x {image.height} px, more than the bound of {max_pixels / 1e6:g} "
                        "million pixels (max_pixels); scale it down or raise the bound",
                    )
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format not in _ONE_IMAGE_FORMATS:
                    raise ImageError(path, f"holds {frames} frames; save each as an image of its own")
                with _ONE_AT_A_TIME if image.width * image.height > LARGE_PIXELS else nullcontext():
                    yield image
        except ImageError:
            raise
        except UnidentifiedImageError:
            raise ImageError(path, _what_else(path)) from None
        except MemoryError:
            raise ImageError(path, "needs more memory than there is; scale it down") from None
        except PermissionError:
            raise ImageError(path, "may not be read (permission denied)") from None
        except Exception as error:
            # Pillow's decoders meet damage with errors of nearly every type (SyntaxError, struct.error,
            # KeyError ...).
            raise ImageError(path, _damage(error)) from error


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
    """Say what a file that is no image seems to be."""
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


def _load_turned(image: Image.Image) -> None:
    from PIL import ImageOps

    # Truncation is found here, in words of its own, and not while some conversion runs.
    image.load()
    ImageOps.exif_transpose(image, in_place=True)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    )


def _laid_on(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    seen = image.convert("RGBA")
    ground = Image.new("RGB", image.size, colour)
    ground.paste(seen, mask=seen.getchannel("A"))
    return ground


def _colour(path: Path, image: Image.Image) -> tuple[npt.NDArray[Any], float]:
    """Pixels as (h, w) or (h, w, 3) of any type, and the number that stands for white."""
    if image.mode.startswith("I;16"):
        return np.asarray(image), 65535
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        top, kind = (65535, "32-bit integer") if image.mode == "I" else (1, "float")
        # NaN fails the comparison too. Stretching each image to its own range would hide brightness
        # defects.
        if not (low >= 0 and high <= top):
            raise ImageError(
                path,
                f"has {kind} values from {low:g} to {high:g}; save it with 8 or 16 bits, or as 0 to {top}",
            )
        return values, top
    if _transparent(image):
        return np.asarray(_laid_on(image, _MID_GREY)), 255
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")), 255
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), 255


def _block_means(values: npt.NDArray[Any], side_px: int) -> npt.NDArray[Any]:
    """Means over blocks of side_px x side_px; blocks at the right and lower edge may be smaller.

    Strip by strip, so that the float copy is never larger than one strip.
    """
    if side_px < 2:
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


def _kind(image: Image.Image) -> str:
    mode = image.mode
    if mode.startswith("I;16"):
        return "16-bit grey"
    # The decoder's raw mode is the only trace of 16-bit colour.
    tile = getattr(image, "tile", None) or []
    if mode in ("RGB", "RGBA", "LA") and any(";16" in str(part) for part in tile):
        return "16-bit colour, read as 8-bit"
    base = _KINDS.get(mode if mode == "LAB" else mode.rstrip("AaX"), mode)
    return f"{base} with transparency" if _transparent(image) else base
