"""How an image of any shape becomes the working image of a detector, and how a map goes back.

An image is scaled to the working size, which is a square or, for tiles, a rectangle of the images' own aspect ratio. It
fills the working image, or keeps its aspect ratio and is padded with mid-grey, like transparent pixels. Every working
pixel is a mean of the image's pixels with weights of at least 0 that sum to 1, or is constant, so no change of up to
eps in every pixel of the image moves a working pixel by more than eps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advrad.data.shapes import ShapeRecord
from advrad.data.transforms import resize
from advrad.data.value_range import RangeRecord

if TYPE_CHECKING:
    from torch import Tensor

#: Value of the padding: mid-grey, see :mod:`advrad.data.images`.
PADDING = 128 / 255


@dataclass(frozen=True, slots=True)
class Framing:
    """How an image becomes the working image of a detector.

    Attributes:
        height_px: Height of the working image.
        width_px: Width of the working image.
        pad: Whether an image keeps its aspect ratio and is padded; otherwise it is stretched to the working size.
        trained: Shapes of the images on which the detector was trained; image files of another shape are refused. None
            if they are not known.
        trained_range: Range of the values of these images; image files of another range are refused. None if it is not
            known, or the user said which value is white.
        value_range: Value of white of the image files; None if the files tell it.
        tile_px: Side of the square tiles into which the working image is cut; None if it is not cut.

    Example:
        >>> import torch
        >>> framing = Framing.square(64, pad=True)
        >>> framing.scaled_size(30, 120)
        (16, 64)
        >>> framing.apply(torch.ones(1, 3, 30, 120)).shape
        torch.Size([1, 3, 64, 64])
        >>> framing.window(30, 120)
        (slice(24, 40, None), slice(0, 64, None))
    """

    height_px: int
    width_px: int
    pad: bool = False
    trained: ShapeRecord | None = None
    trained_range: RangeRecord | None = None
    value_range: float | None = None
    tile_px: int | None = None

    @classmethod
    def square(
        cls,
        size_px: int,
        *,
        pad: bool = False,
        trained: ShapeRecord | None = None,
        trained_range: RangeRecord | None = None,
    ) -> Framing:
        """Make a square working image.

        Args:
            size_px: Side of the square.
            pad: Whether images keep their aspect ratio and are padded.
            trained: Shapes of the training images; None if they are not known.
            trained_range: Range of their values; None if it is not known.
        """
        white = None if trained_range is None else trained_range.given
        return cls(size_px, size_px, pad, trained, trained_range, white)

    def with_white(self, value_range: float | None) -> Framing:
        """Say which value is white in the image files, whatever the training images had.

        Args:
            value_range: Value of white, > 0; None to leave it as it is.
        """
        return self if value_range is None else replace(self, value_range=value_range, trained_range=None)

    @property
    def key(self) -> str:
        """What the working images depend on, for the name of a cache entry."""
        white = "" if self.value_range is None else f" white {self.value_range!r}"
        if self.pad or self.height_px != self.width_px:
            return f"{self.height_px}x{self.width_px}{' padded' if self.pad else ''}{white}"
        return f"{self.height_px}{white}"

    @property
    def stretches(self) -> bool:
        """Whether images lose their aspect ratio."""
        return not self.pad and self.tile_px is None

    def scaled_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Height and width to which an image is scaled, before it is padded.

        Args:
            height_px: Height of the image.
            width_px: Width of the image.
        """
        if not self.pad:
            return self.height_px, self.width_px
        factor = min(self.height_px / height_px, self.width_px / width_px)
        rows, columns = (max(1, round(side * factor)) for side in (height_px, width_px))
        return min(rows, self.height_px), min(columns, self.width_px)

    def holds(self, height_px: int, width_px: int) -> bool:
        """Whether an image of this size is a working image already."""
        return (height_px, width_px) == (self.height_px, self.width_px)

    def window(self, height_px: int, width_px: int) -> tuple[slice, slice]:
        """Rows and columns of the working image that show the image; the others are padding.

        Args:
            height_px: Height of the image.
            width_px: Width of the image.
        """
        rows, columns = self.scaled_size(height_px, width_px)
        top, left = (self.height_px - rows) // 2, (self.width_px - columns) // 2
        return slice(top, top + rows), slice(left, left + columns)

    def apply(self, images: Tensor) -> Tensor:
        """Make working images. Differentiable.

        Args:
            images: Images, (b, c, h, w), float in [0, 1].

        Returns:
            The working images, (b, c, height_px, width_px). Images of this size stay the same.
        """
        from torch.nn.functional import pad

        rows, columns = self.scaled_size(*images.shape[2:])
        scaled = resize(images, (rows, columns))
        if self.holds(rows, columns):
            return scaled
        down, across = self.window(*images.shape[2:])
        beside = (across.start, self.width_px - across.stop, down.start, self.height_px - down.stop)
        return pad(scaled, beside, value=PADDING)


def as_framing(framing: Framing | int) -> Framing:
    """The framing itself, or that of the square of a side in pixels, to which images are stretched."""
    return Framing.square(framing) if isinstance(framing, int) else framing
