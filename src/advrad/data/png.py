"""Write images as PNG files of 8 or 16 bits.

Adversarial images need 16 bits: rounded to 8 bits, a perturbation of 2/255 would change by up to a quarter of its size.
Pillow cannot write 16-bit colour, so this module does.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad.utils.files import atomic_path


def write_image(path: Path, array: npt.NDArray[Any], bits: int = 8) -> None:
    """Write a PNG file; a file that was interrupted is never left behind.

    Args:
        path: Path of the file, ending in .png, in an existing folder.
        array: Image, (h, w) grey or (h, w, 3) colour, float or bool; values are clipped to [0, 1].
        bits: Bits per value, 8 or 16.

    Raises:
        OutputError: The file cannot be written.
        ValueError: The array is not an image, or the path does not end in .png.

    Example:
        >>> import numpy as np
        >>> from advrad.data import write_image
        >>> write_image("grey.png", np.full((32, 32), 0.5), bits=16)  # doctest: +SKIP
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: must end in .png")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ValueError(f"expected (h, w) or (h, w, 3), got {array.shape}")
    if bits not in (8, 16):
        raise ValueError("bits must be 8 or 16")
    whole = to_levels(array, bits)
    with atomic_path(path) as temporary:
        if bits == 16 and array.ndim == 3:
            temporary.write_bytes(_png_of_deep_colour(whole))
        else:
            Image.fromarray(whole).save(temporary, format="PNG")


def _png_of_deep_colour(levels: npt.NDArray[Any]) -> bytes:
    """The bytes of a PNG file of 16-bit colour, (h, w, 3) uint16."""
    height, width, _ = levels.shape
    rows = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    # Each row begins with its filter type, 0.
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(filtered.tobytes())), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def to_levels(array: npt.NDArray[Any], bits: int = 8) -> npt.NDArray[np.uint8 | np.uint16]:
    """Round values in [0, 1] to the integers of an image file.

    Args:
        array: Values, any shape, float or bool; clipped to [0, 1].
        bits: Bits per value, 8 or 16.

    Raises:
        ValueError: A value is NaN.
    """
    values = np.asarray(array, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("the image holds NaN")
    levels = np.rint(np.clip(values, 0, 1) * (2**bits - 1))
    return np.asarray(levels, dtype=np.uint8 if bits == 8 else np.uint16)
