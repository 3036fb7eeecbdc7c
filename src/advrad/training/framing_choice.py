"""Decide how the images of a training become working images."""

from __future__ import annotations

from advrad.data.framing import Framing
from advrad.data.loading import ImageStack
from advrad.data.shapes import ShapeName, ShapeRecord, choose_shape
from advrad.data.trained_images import digests_of
from advrad.detectors.config import TrainingRecord
from advrad.errors import ConfigError
from advrad.training.options import RunOptions
from advrad.utils.progress import SILENT, ProgressReporter


def choose_framing(
    shapes: ShapeRecord | None,
    options: RunOptions,
    size_px: int,
    *,
    learned: bool = False,
    progress: ProgressReporter = SILENT,
) -> Framing:
    """Decide how the images of a training become working images, as the user asks or their shapes suggest.

    Args:
        shapes: Shapes of the normal images; None if none can be read.
        options: Options of the run.
        size_px: Side of the working square, or of a working tile.
        learned: Whether a denoiser is trained, which takes no tiles.
        progress: Receives a message about what is done to the images.

    Raises:
        ConfigError: The shape or the tiles do not suit the images or the detector.
    """
    asked: ShapeName | None = None if options.shape == "auto" else options.shape
    if options.tile_px is not None:
        if asked not in (None, "tiles"):
            raise ConfigError(f"belongs to the shape tiles, not to {asked}; leave one out", option="tile_px")
        asked = "tiles"
    if shapes is None:
        return Framing.square(size_px, pad=asked == "pad")
    choice = choose_shape(shapes, asked)
    if choice.shape == "tiles" and learned:
        raise ConfigError(
            f"the images are {shapes.describe()} and would be cut into tiles, which only the closed form takes; train"
            " without a learned denoiser, or choose the shape pad or stretch",
            option="shape",
            value=options.shape,
        )
    if choice.note is not None:
        progress.note(choice.note)
    if choice.shape == "tiles":
        return _tiles(shapes, options.tile_px, size_px)
    return Framing.square(size_px, pad=choice.shape == "pad", trained=shapes)


def _tiles(shapes: ShapeRecord, tile_px: int | None, size_px: int) -> Framing:
    """The working image of the training images' median shape, of which a tile is a square of the working size."""
    width_px, height_px = shapes.median_px
    shorter = min(width_px, height_px)
    side = shorter if tile_px is None else tile_px
    if side > shorter:
        raise ConfigError(
            f"is larger than the shorter side of the images, {shorter:g} px; choose a smaller one",
            option="tile_px",
            value=tile_px,
        )
    rows, columns = (max(size_px, round(length * size_px / side)) for length in (height_px, width_px))
    return Framing(rows, columns, trained=shapes, tile_px=size_px)


def with_images(
    training: TrainingRecord, framing: Framing, images: ImageStack, value_range: float | None
) -> TrainingRecord:
    """Add what the images were to the record of a training: their shapes, contents and range of values.

    Args:
        training: Record.
        framing: Framing that :func:`choose_framing` chose.
        images: The images.
        value_range: Value of white that the user gave; None if the files told it.
    """
    found: dict[str, object] = {"seen": digests_of(images), "value_range": images.range_record(value_range)}
    if framing.trained is not None:
        found["shapes"] = framing.trained
    return training.model_copy(update=found)
