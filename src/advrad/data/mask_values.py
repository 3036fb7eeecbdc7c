"""Which pixels of a mask file are marked.

Pixels that are neither black nor transparent are marked: values 0 and 255, 0 and 1, class numbers and colours are all
understood. Three kinds of files need more:

- In a palette without black, the first colour is the background, whatever it looks like.
- Compression with losses leaves values near black around the edges: there, marked is what is at least half as bright as
  white.
- A float mask must hold finite values of at least 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from advrad.data.decoding import is_deep_png, rotated, turn
from advrad.data.tiff import RawPixels, TiffImage
from advrad.data.transparency import is_transparent, on_background
from advrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

Loss = Literal["none", "possible", "certain"]

#: Number of different values above which a mask that may be compressed with losses was.
_MANY_VALUES = 16


def marked_pixels(path: Path, image: Image.Image | TiffImage) -> npt.NDArray[np.bool_]:
    """Find the marked pixels of an open mask.

    Args:
        path: Its file.
        image: The open image.

    Returns:
        The mask, (h, w) bool, True where marked.

    Raises:
        ImageError: The file is damaged, or holds values that are not finite or negative.
    """
    loss = _loss(path, image)
    if isinstance(image, TiffImage):
        read = image.read(judge_zeros=False)  # a mask may be black to the end
        if isinstance(read, RawPixels):
            return turn(_of_values(path, read.values, read.white, loss, read.inverted), image.orientation)
        return turn(_of_picture(path, read, loss), image.orientation)
    if is_deep_png(image):
        return _of_deep_png(path, image)
    return _of_picture(path, rotated(image), loss)


def _of_picture(path: Path, image: Image.Image, loss: Loss) -> npt.NDArray[np.bool_]:
    if is_transparent(image):
        image = on_background(image, 0)
    elif image.mode == "P":
        index = np.asarray(image)
        table = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        used = np.unique(index)
        if table[used[used < len(table)]].any(axis=1).all():  # without black
            return np.asarray(index != 0, dtype=np.bool_)
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    return _of_values(path, np.asarray(image), 255 if image.mode in ("L", "RGB") else None, loss)


def _of_values(
    path: Path, values: npt.NDArray[Any], white: float | None, loss: Loss, inverted: bool = False
) -> npt.NDArray[np.bool_]:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise ImageError(path, f"has values from {low:g} to {high:g}; save the mask as 0 and 255 with 8 bits")
    if inverted:
        values = (white if white is not None else high) - values
    if loss == "possible":
        loss = "certain" if len(np.unique(values)) > _MANY_VALUES else "none"
    marked = values != 0 if loss == "none" else values >= (white or high) / 2
    return np.asarray(marked.any(axis=2) if marked.ndim == 3 else marked, dtype=np.bool_)


def _of_deep_png(path: Path, image: Image.Image) -> npt.NDArray[np.bool_]:
    """Marked pixels of a PNG of 16-bit colour or transparency."""
    import imagecodecs

    values = imagecodecs.png_decode(path.read_bytes())
    if values.shape[2] in (2, 4):
        values = values[:, :, :-1] * (values[:, :, -1:] > 0)
    marked = np.asarray((values != 0).any(axis=2), dtype=np.bool_)
    return turn(marked, image.getexif().get(0x0112, 1))


def _loss(path: Path, image: Image.Image | TiffImage) -> Loss:
    """Whether the file was compressed with losses."""
    if isinstance(image, TiffImage):
        return "certain" if image.is_jpeg else "possible" if image.lossy else "none"
    if image.format in ("JPEG", "MPO", "AVIF", "HEIF"):
        return "certain"
    if image.format not in ("WEBP", "JPEG2000"):
        return "none"
    with path.open("rb") as file:
        start = file.read(4096)
    if image.format == "WEBP":
        return "none" if b"VP8L" in start[:64] else "certain"
    style = start.find(b"\xff\x52")  # the coding style; its last part names the wavelet, 0 for the one with losses
    return "certain" if 0 <= style < len(start) - 13 and start[style + 13] == 0 else "possible"
