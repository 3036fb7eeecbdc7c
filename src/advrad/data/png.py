"""Write images as PNG files of 8 or 16 bits.

Adversarial images need 16 bits: rounded to 8 bits, a perturbation of 2/255 would change by up to a quarter of its size.
Pillow cannot write 16-bit colour, and takes several times as long for files of the same size: it looks for repetitions,
of which images have few, where runs of equal bytes do.
"""

from __future__ import annotations

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
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: must end in .png")
    content = png_of(array, bits)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def png_of(array: npt.NDArray[Any], bits: int = 8) -> bytes:
    """The content of a PNG file.

    Args:
        array: Image, (h, w) grey or (h, w, 3) colour, float or bool; values are clipped to [0, 1].
        bits: Bits per value, 8 or 16.

    Raises:
        ValueError: The array is not an image.

    Example:
        >>> png_of(np.zeros((2, 2)))[1:4]
        b'PNG'
    """
    import imagecodecs

    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ValueError(f"expected (h, w) or (h, w, 3), got {array.shape}")
    if bits not in (8, 16):
        raise ValueError("bits must be 8 or 16")
    whole = to_levels(array, bits)
    form = imagecodecs.PNG
    levels = np.ascontiguousarray(whole)
    return bytes(imagecodecs.png_encode(levels, strategy=form.STRATEGY.RLE, filter=form.FILTER.ALL))


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
