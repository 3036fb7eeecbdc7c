"""Shapes of image files: those of the training images, and how far another image is from them.

A detector compares an image with normal images at the same working size. An image of another shape is stretched or
squeezed in another way than they were, so its score means little, however the verdict falls.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from advrad.data.images import examine
from advrad.data.records import Record
from advrad.errors import ImageError
from advrad.utils.config import Config

#: Factor up to which the aspect ratio of an image may differ from those of the training images without a word.
SAME_ASPECT = 1.1
#: Factor from which an image is refused.
REFUSED_ASPECT = 2.0
#: Largest factor between the sides of images that are stretched to squares without being asked.
STRETCHED_ASPECT = 2.0
#: Factor between the sides from which images are cut into tiles without being asked: a square holds little of them.
TILED_ASPECT = 4.0
#: Largest aspect ratio divided by the smallest up to which images count as of one shape.
_ONE_SHAPE = 1.25
#: Squeezing that is mentioned.
_MENTIONED = 1.5
#: Factor of the resolution, the root of the number of pixels, from which it is doubted.
OTHER_RESOLUTION = 2.0


ShapeName = Literal["stretch", "pad", "tiles"]


@dataclass(frozen=True, slots=True)
class ShapeDoubt:
    """Why an image does not suit a detector.

    Attributes:
        reason: Both shapes and what to do, in words that follow the name of the image.
        refused: Whether the image must not be judged.
    """

    reason: str
    refused: bool


class ShapeRecord(Config):
    """Shapes of the images on which a detector was trained.

    Attributes:
        width_px: Smallest and largest width.
        height_px: Smallest and largest height.
        aspect: Smallest and largest aspect ratio, width divided by height.
        median_px: Median width and median height.

    Example:
        >>> shapes = ShapeRecord.of([(640, 480), (800, 600)])
        >>> shapes.describe()
        '640 x 480 to 800 x 600 px'
        >>> shapes.doubt(660, 480) is None
        True
        >>> shapes.doubt(4096, 64).refused
        True
    """

    model_config = ConfigDict(extra="allow")

    width_px: tuple[int, int]
    height_px: tuple[int, int]
    aspect: tuple[float, float]
    median_px: tuple[float, float]

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> ShapeRecord:
        """Summarise shapes.

        Args:
            sizes: Width and height of each image, at least one.
        """
        widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
        aspects = [round(width / height, 6) for width, height in sizes]
        return cls(
            width_px=(min(widths), max(widths)),
            height_px=(min(heights), max(heights)),
            aspect=(min(aspects), max(aspects)),
            median_px=(statistics.median(widths), statistics.median(heights)),
        )

    @property
    def spread(self) -> float:
        """Largest aspect ratio divided by the smallest."""
        return self.aspect[1] / self.aspect[0]

    def describe(self) -> str:
        """The shapes in words."""
        (least_width, most_width), (least_height, most_height) = self.width_px, self.height_px
        if least_width == most_width and least_height == most_height:
            return f"{least_width} x {least_height} px"
        return f"{least_width} x {least_height} to {most_width} x {most_height} px"

    @property
    def squeeze(self) -> float:
        """Largest factor by which stretching to a square shrinks one side of an image more than the other."""
        return max(self.aspect[1], 1 / self.aspect[0])

    def doubt(self, width_px: int, height_px: int) -> ShapeDoubt | None:
        """Compare an image with the training images.

        Args:
            width_px: Width of the image.
            height_px: Height of the image.

        Returns:
            What is doubtful; None if the image suits the detector.
        """
        aspect = width_px / height_px
        factor = max(aspect / self.aspect[1], self.aspect[0] / aspect)
        trained = f"is {width_px} x {height_px} px, but the model was trained on images of {self.describe()}"
        if factor > REFUSED_ASPECT:
            return ShapeDoubt(
                f"{trained}: its aspect ratio differs by a factor of {factor:.3g}, so a verdict would mean nothing; cut"
                " it to the shape of the training images, or train a model on images of this shape",
                refused=True,
            )
        if factor > SAME_ASPECT:
            return ShapeDoubt(
                f"{trained}: its aspect ratio differs by a factor of {factor:.3g}, so its score is doubtful; cut it to"
                " the shape of the training images",
                refused=False,
            )
        resolution = (width_px * height_px) ** 0.5
        least, most = ((self.width_px[end] * self.height_px[end]) ** 0.5 for end in (0, 1))
        if (other := max(resolution / most, least / resolution)) > OTHER_RESOLUTION:
            return ShapeDoubt(
                f"{trained}: its resolution differs by a factor of {other:.3g}, so it is sharper or more blurred than"
                " they are, and its score is doubtful; take images like those of the training",
                refused=False,
            )
        return None


def record_shapes(records: Iterable[Record], max_pixels: int) -> ShapeRecord | None:
    """Record the shapes of image files.

    Args:
        records: Images; those that cannot be read do not count.
        max_pixels: Largest accepted number of pixels.

    Returns:
        The shapes; None if no image can be read.
    """
    sizes = []
    for record in records:
        with suppress(ImageError):
            info = examine(record.path, max_pixels)
            sizes.append((info.width_px, info.height_px))
    return ShapeRecord.of(sizes) if sizes else None


def check_shape(path: Path, shapes: ShapeRecord | None, max_pixels: int) -> str | None:
    """Refuse an image file whose shape differs too much from those of the training images.

    Args:
        path: Image file.
        shapes: Shapes of the training images; None if they are not known.
        max_pixels: Largest accepted number of pixels.

    Returns:
        A warning, without the name of the file; None if the image suits the detector, or nothing is known.

    Raises:
        ImageError: The image cannot be read, or has another shape.
    """
    if shapes is None:
        return None
    info = examine(path, max_pixels)
    doubt = shapes.doubt(info.width_px, info.height_px)
    if doubt is not None and doubt.refused:
        raise ImageError(path, doubt.reason)
    return None if doubt is None else doubt.reason


@dataclass(frozen=True, slots=True)
class ShapeChoice:
    """How images become working images.

    Attributes:
        shape: ``stretch``, ``pad`` or ``tiles``.
        note: What it does to the images, in words; None where there is nothing to say.
    """

    shape: ShapeName
    note: str | None = None


def choose_shape(shapes: ShapeRecord, asked: ShapeName | None = None) -> ShapeChoice:
    """Choose how images become working images.

    Images of one shape are stretched to squares, unless one side is more than twice the other: each is stretched in the
    same way, so they stay comparable. Others are padded, which keeps their aspect ratio. Very long ones are cut into
    tiles, because little of them would be left in a square.

    Args:
        shapes: Shapes of the normal images.
        asked: What the user wants; None to choose.

    Example:
        >>> choose_shape(ShapeRecord.of([(640, 480)])).shape
        'stretch'
        >>> choose_shape(ShapeRecord.of([(8000, 200)])).shape
        'tiles'
    """
    squeeze, one = shapes.squeeze, shapes.spread <= _ONE_SHAPE
    if asked is not None:
        chosen: ShapeName = asked
    elif one and squeeze <= STRETCHED_ASPECT:
        chosen = "stretch"
    else:
        chosen = "tiles" if one and squeeze > TILED_ASPECT else "pad"
    images = f"the images are {shapes.describe()}"
    if chosen == "tiles":
        return ShapeChoice(chosen, f"{images}: they keep their aspect ratio and are cut into overlapping square tiles")
    if chosen == "pad":
        why = "" if asked else f"; stretched to squares, one side would be squeezed up to {squeeze:.3g} times more"
        return ShapeChoice(chosen, f"{images}: they keep their aspect ratio and are padded to squares{why}")
    if squeeze <= _MENTIONED and one:
        return ShapeChoice(chosen)
    keep = "tiles" if one and squeeze > TILED_ASPECT else "pad"
    return ShapeChoice(
        chosen,
        f"{images}: they are squeezed to squares, one side up to {squeeze:.3g} times more than the other; the shape"
        f" {keep} keeps their aspect ratio",
    )


@dataclass(frozen=True, slots=True)
class CheckedShapes:
    """Images whose shapes were compared with those of the training images.

    Attributes:
        records: Images that may be judged.
        refused: Errors of the others.
        warnings: What is doubtful, in one line each.
    """

    records: tuple[Record, ...]
    refused: tuple[ImageError, ...] = ()
    warnings: tuple[str, ...] = ()


def check_shapes(records: Sequence[Record], shapes: ShapeRecord | None, max_pixels: int) -> CheckedShapes:
    """Compare images with the training images of a detector. Images that cannot be read stay for who reads them.

    Args:
        records: Images.
        shapes: Shapes of the training images; None if they are not known.
        max_pixels: Largest accepted number of pixels.
    """
    if shapes is None:
        return CheckedShapes(tuple(records))
    kept: list[Record] = []
    refused: list[ImageError] = []
    doubtful: list[str] = []
    for record in records:
        try:
            info = examine(record.path, max_pixels)
        except ImageError:
            doubt = None
        else:
            doubt = shapes.doubt(info.width_px, info.height_px)
        if doubt is not None and doubt.refused:
            refused.append(ImageError(record.path, doubt.reason))
            continue
        kept.append(record)
        doubtful += [] if doubt is None else [f"{record.path}: {doubt.reason}"]
    further = f" ({len(doubtful) - 1} further images differ, too)" if len(doubtful) > 1 else ""
    return CheckedShapes(tuple(kept), tuple(refused), tuple(text + further for text in doubtful[:1]))
