"""Checks of images in memory: their shape, type and values, and what to do about each fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from advrad.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

#: Values may leave [0, 1] by this much, as rounding does: 1e-6, itself rounded.
TOLERANCE = 1.001e-6

#: Order of the sides of an array: number, height, width and channels.
Order = Literal["hw", "hwc", "chw", "nhwc", "nchw"]

_SHAPES = "give (h, w), (h, w, 3), (3, h, w), (n, h, w, 3) or (n, 3, h, w); several grey images as (n, 1, h, w)"
_TYPES = "give uint8 (0 to 255), uint16 (0 to 65535) or float in [0, 1]"


@dataclass(frozen=True, slots=True)
class Described:
    """How an array is named in errors.

    Attributes:
        name: Name of the array, such as ``images[3]``.
        dtype: Type of its values.
        shape: Its shape as given.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def refuse(self, fault: str) -> NoReturn:
        """Raise an error that names array, type and shape.

        Args:
            fault: What is wrong, and the fix.

        Raises:
            DataError: Always.
        """
        raise DataError(f"{self.name}: {self.dtype} of shape {self.shape}{fault}")

    def row(self, index: int | None) -> Described:
        """The same for one image of several.

        Args:
            index: Place of the image; None if there is one only.
        """
        return self if index is None else Described(f"{self.name}[{index}]", self.dtype, self.shape[1:])


def order_of(given: Described, channels: Sequence[int] | None = (1, 3)) -> Order:
    """Find out which sides of an array are height, width and channels.

    Args:
        given: Description of the array.
        channels: Numbers of channels that may come before height and width; None for any number in (n, c, h, w).

    Raises:
        DataError: The shape is not that of images, or may be read in two ways.
    """
    shape = given.shape
    if len(shape) not in (2, 3, 4):
        given.refuse(f"; {_SHAPES}")
    if 0 in shape[-3:]:
        given.refuse(" has no pixels; leave it out")
    if len(shape) == 2:
        return "hw"
    last = shape[-1] in (1, 3, 4)
    first = shape[-3] in (1, 3) if channels is None else shape[-3] in channels
    if first and last:
        given.refuse(
            " may have its channels first or last; give images of at least 16 px on each side, such as (n, 3, h, w)"
        )
    if not first and not last and (channels is not None or len(shape) == 3):
        given.refuse(f"; {_SHAPES}")
    if len(shape) == 3:
        return "hwc" if last else "chw"
    return "nhwc" if last else "nchw"


def channels_last(array: npt.NDArray[Any], order: Order) -> npt.NDArray[Any]:
    """A view of an array as (n, h, w, c).

    Args:
        array: Array.
        order: Order of its sides.
    """
    if order == "hw":
        return array[None, :, :, None]
    if order == "hwc":
        return array[None]
    if order == "chw":
        return array.transpose(1, 2, 0)[None]
    return array if order == "nhwc" else array.transpose(0, 2, 3, 1)


def white_of(array: npt.NDArray[Any], given: Described) -> float:
    """The value of white of an array.

    Args:
        array: Array of any type.
        given: Its description.

    Raises:
        DataError: The type is not that of images.
    """
    if array.dtype == np.uint8:
        return 255
    if array.dtype == np.uint16 or array.dtype == np.dtype(">u2"):
        return 65535
    if array.dtype.kind == "f":
        return 1
    if array.dtype.kind == "b":
        given.refuse("; give an image, or array.astype('uint8') * 255 if it is black and white")
    if array.dtype.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        fix = _TYPES
        if low >= 0 and high <= 65535:
            kind, white = ("uint8", 255) if high <= 255 else ("uint16", 65535)
            fix = f"give array.astype('{kind}') if white is {white}, or array divided by the value of white"
        given.refuse(f" has values from {low} to {high}; {fix}")
    given.refuse(f"; {_TYPES}")


def check_range(low: float, high: float, not_finite: int, given: Described) -> None:
    """Refuse values that are not finite, or outside [0, 1] by more than rounding.

    Args:
        low: Smallest value.
        high: Largest value.
        not_finite: Number of values that are NaN or infinite.
        given: Description of the image.

    Raises:
        DataError: The values are not those of an image in [0, 1].
    """
    if not_finite:
        many = f"{not_finite} values that are" if not_finite > 1 else "1 value that is"
        given.refuse(f" has {many} NaN or infinite; mend the image, or leave it out")
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    given.refuse(f" has values from {low:.6g} to {high:.6g}; {_range_fix(low, high)}")


def _range_fix(low: float, high: float) -> str:
    """What to do about values outside [0, 1]."""
    if low >= -0.2 and high <= 1.2:
        return "clip them to [0, 1]"
    if low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return "they look scaled to [-1, 1]: give (images + 1) / 2"
    if low >= -0.5 and high <= 255.5:
        return "divide by 255, or give uint8"
    if low >= -0.5 and high <= 65535.5:
        return "divide by the value of white (65535 for 16 bits, 4095 for 12 bits), or give uint16"
    if low >= -10 and high <= 10:
        return "they look normalised by mean and standard deviation: give the image before that, in [0, 1]"
    return "give values in [0, 1], where 1 is white"


def check_layout(images: Tensor) -> None:
    """Check the shape and the type of a batch, and not its values: for code that is called often.

    Args:
        images: Images, (b, 3, h, w), float.

    Raises:
        DataError: They have another shape or type.
    """
    from torch import Tensor

    if not isinstance(images, Tensor):
        raise DataError(
            f"images: expected a tensor (b, 3, h, w), got {type(images).__name__}; predict takes arrays, images of"
            " Pillow and paths"
        )
    # Sides are described in errors only: reading them as numbers would fix them in an exported graph.
    if images.ndim != 4 or images.shape[1] != 3:
        given = _described(images)
        raise DataError(
            f"images: expected (b, 3, h, w), got {given.shape} of {given.dtype}; predict also takes other shapes"
        )
    if not images.is_floating_point():
        _described(images).refuse("; give float in [0, 1], such as images / 255; predict also takes uint8")


def check_images(images: Tensor) -> Tensor:
    """Check shape, type and values of a batch, which stays as it is: gradients pass, and nothing is clipped.

    Args:
        images: Images, (b, 3, h, w), float in [0, 1].

    Returns:
        The same images.

    Raises:
        DataError: They have another shape or type, or a value is not finite or outside [0, 1] by more than 1e-6.

    Example:
        >>> import torch
        >>> images = torch.full((2, 3, 16, 16), 0.5, requires_grad=True)
        >>> check_images(images) is images
        True
    """
    import torch

    check_layout(images)
    if torch.compiler.is_compiling() or not images.numel():
        return images
    values = images.detach()
    values = values if values.element_size() >= 4 else values.float()
    low, high = (float(part) for part in values.aminmax())  # NaN if there is one
    if not (low >= 0 and high <= 1):
        for index, row in enumerate(values):
            low, high = (float(part) for part in row.aminmax())
            check_range(low, high, int((~torch.isfinite(row)).sum()), _described(images).row(index))
    return images


def _described(images: Tensor) -> Described:
    return Described("images", str(images.dtype).removeprefix("torch."), tuple(int(side) for side in images.shape))
