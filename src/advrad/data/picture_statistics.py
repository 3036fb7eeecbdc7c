"""Two numbers that tell whether light, lens or camera changed: how bright an image is, and how sharp."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, model_validator

from advrad.errors import DataError
from advrad.utils.config import Config

if TYPE_CHECKING:
    from torch import Tensor

# The last decimal that is kept: finer differences are rounding.
_DECIMALS = 7
# A Laplacian needs a neighbour on each side.
_LEAST_SIDE_PX = 3


@dataclass(frozen=True, slots=True)
class PictureStatistics:
    """Brightness and sharpness of an image.

    Attributes:
        brightness: Mean over pixels and colours, in [0, 1].
        sharpness: Standard deviation of the Laplacian of the mean over colours, over inner pixels; >= 0.
    """

    brightness: float
    sharpness: float


def picture_statistics(image: Tensor) -> PictureStatistics:
    """Compute brightness and sharpness of an image.

    Images of different sizes do not compare, because scaling blurs: give the working image of the detector, padded as
    the detector sees it.

    Args:
        image: Working image, (3, h, w), uint8 or float in [0, 1], h and w >= 3.

    Returns:
        Both statistics, rounded to seven decimals.

    Raises:
        DataError: The image has another shape, or values that are not finite.

    Example:
        >>> import torch
        >>> picture_statistics(torch.full((3, 8, 8), 0.25))
        PictureStatistics(brightness=0.25, sharpness=0.0)
    """
    if image.ndim != 3 or image.shape[0] != 3 or min(image.shape[1:]) < _LEAST_SIDE_PX:
        raise DataError(
            f"an image of shape {tuple(image.shape)} has no brightness and sharpness; give one of shape (3, h, w), with"
            f" sides of at least {_LEAST_SIDE_PX} px"
        )
    values = image.detach().cpu().numpy()
    white = 255 if values.dtype == np.uint8 else 1
    grey = values.astype(np.float32, copy=False).mean(axis=0) / np.float32(white)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = 4 * grey[1:-1, 1:-1] - neighbours
    brightness = float(grey.mean(dtype=np.float64))
    sharpness = float(laplacian.std(dtype=np.float64))
    if not np.isfinite([brightness, sharpness]).all():
        raise DataError("the image holds values that are not finite; give values in [0, 1]")
    return PictureStatistics(round(brightness, _DECIMALS), round(sharpness, _DECIMALS))


class PictureReference(Config):
    """Brightness and sharpness of normal images: what images of a running line are compared with.

    Attributes:
        brightness: Brightness of each image, rising; see :func:`picture_statistics`.
        sharpness: Sharpness of each image, rising.

    Example:
        >>> PictureReference.of([PictureStatistics(0.5, 0.01), PictureStatistics(0.4, 0.03)])
        PictureReference(brightness=(0.4, 0.5), sharpness=(0.01, 0.03))
    """

    brightness: tuple[float, ...] = Field(min_length=1)
    sharpness: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.brightness) != len(self.sharpness):
            raise ValueError("brightness and sharpness must be of the same images")
        return self

    @classmethod
    def of(cls, found: Iterable[PictureStatistics]) -> Self:
        """Collect the statistics of images.

        Args:
            found: Statistics of one image each, one or more.
        """
        each = list(found)
        return cls(
            brightness=tuple(sorted(one.brightness for one in each)),
            sharpness=tuple(sorted(one.sharpness for one in each)),
        )
