"""Images that are given in Python, in 8 bits at their own size, as an exported detector takes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from advrad.data.arrays import Array, GivenImage, ImageReader
from advrad.data.framing import Framing
from advrad.data.images import as_8_bits, read_pixels8
from advrad.data.records import MAX_PIXELS
from advrad.data.shapes import check_shape

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.data.arrays import ImageInput


def images_in_8_bits(inputs: ImageInput, framing: Framing, max_pixels: int = MAX_PIXELS) -> Iterator[GivenImage]:
    """Read images in 8 bits, one by one.

    Args:
        inputs: Images, as for :func:`advrad.data.arrays.image_batches`. Those of 8 bits stay as they are; others are
            rounded.
        framing: Framing of the detector. Images of another shape than those of the training are refused.
        max_pixels: Largest number of pixels of a file or an image of Pillow.

    Yields:
        Images in order, (h, w, 3) uint8 each.

    Raises:
        DataError: An image is not what :mod:`advrad.data.arrays` accepts.

    Example:
        >>> import numpy as np
        >>> frames = np.zeros((2, 40, 60), dtype=np.uint8)
        >>> [image.pixels.shape for image in images_in_8_bits(list(frames), Framing.square(32))]
        [torch.Size([40, 60, 3]), torch.Size([40, 60, 3])]
    """
    yield from _PixelReader(framing, max_pixels).read(inputs)


class _PixelReader(ImageReader):
    """Reads images one by one at their own size in 8 bits.

    Args:
        known: Framing of the detector.
        max_pixels: Largest number of pixels of a file or an image of Pillow.
    """

    def __init__(self, known: Framing, max_pixels: int) -> None:
        super().__init__(known, max_pixels)
        self.known = known

    def _file(self, path: Path) -> GivenImage:
        warning = check_shape(path, self.known.trained, self.max_pixels)
        if warning is not None:
            self._warn("shape", f"{path}: {warning}")
        pixels = read_pixels8(path, self.known, self.max_pixels)
        return GivenImage(torch.from_numpy(pixels), os.fspath(path), path, (pixels.shape[0], pixels.shape[1]))

    def _pixels(self, values: Array, white: float, scaled: bool) -> Tensor:
        return torch.from_numpy(as_8_bits(values[:, :, 0] if values.shape[2] == 1 else values, white))
