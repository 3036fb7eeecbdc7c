"""Anomaly maps made visible on the image they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike, NDArray

from advrad.detectors.config import Calibration
from advrad.errors import ConfigError, DataError

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Colour = tuple[float, float, float]

CYAN: Colour = (0.0, 0.85, 1.0)

# From purple over red to pale yellow, in RGB: lightness rises steadily, so the order survives colour
# blindness and print. The dark end hardly shows, since it is also the transparent end.
_HEAT = np.array([[0.30, 0.05, 0.42], [0.58, 0.15, 0.40], [0.85, 0.28, 0.24], [0.97, 0.55, 0.10], [0.99, 0.90, 0.50]])
# The strongest colour still lets the defect below it show through.
_OPACITY = 0.75


def colour_image(image: ArrayLike) -> Image:
    """Check that an array is a colour image.

    Args:
        image: (h, w, 3) finite; what lies outside [0, 1] is cut off.

    Returns:
        (h, w, 3) in [0, 1].

    Raises:
        DataError: the shape is wrong, or a value is NaN or infinite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise DataError(f"image {values.shape} is not a colour image; pass an array of shape (h, w, 3)")
    if not np.isfinite(values).all():
        raise DataError("image: a value is NaN or infinite; pass values in [0, 1]")
    return np.clip(values, 0.0, 1.0)


def heat_overlay(image: ArrayLike, score_map: ArrayLike, low: float, high: float) -> Image:
    """Lay a score map over an image as colour.

    The scale is fixed by ``low`` and ``high`` and not by the map itself: a normal image stays as it is,
    instead of having its largest harmless value painted in the colour of a defect.

    Args:
        image: (h, w, 3) in [0, 1].
        score_map: (h', w') finite, larger is more anomalous; resized bilinearly to (h, w).
        low: level up to which the image is left untouched, such as the usual maximum of a good map.
        high: level of the strongest colour, such as the threshold. Where the map exceeds it, the area is
            outlined.

    Returns:
        (h, w, 3) in [0, 1].

    Raises:
        ConfigError: not ``low < high``, or one of them is not finite.
        DataError: a shape is wrong, or the map holds NaN or infinities.
    """
    base = colour_image(image)
    values = np.asarray(score_map, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"score_map {values.shape} is not a map; pass an array of shape (h, w)")
    if not np.isfinite(values).all():
        raise DataError("score_map: a value is NaN or infinite; the model that made it has diverged")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(f"low, high: {low} and {high} make no scale; low must be below high")
    values = _resize(values, base.shape[0], base.shape[1])
    heat = np.clip((values - low) / (high - low), 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, len(_HEAT))
    colour = np.stack([np.interp(heat, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    opacity = _OPACITY * heat[..., None]
    mixed = np.asarray((1.0 - opacity) * base + opacity * colour, dtype=np.float32)
    return outline(mixed, values > high, (1.0, 1.0, 1.0))


def outline(image: ArrayLike, mask: ArrayLike, colour: Colour = CYAN) -> Image:
    """Draw the border of a mask: ``colour`` on the inside and dark outside, so that it shows on any ground.

    Args:
        image: (h, w, 3) in [0, 1].
        mask: (h', w') bool; resized to the nearest pixel.
        colour: RGB in [0, 1].

    Returns:
        (h, w, 3) in [0, 1], a copy.

    Raises:
        DataError: a shape is wrong.
    """
    base = colour_image(image).copy()
    inside = np.asarray(mask)
    if inside.ndim != 2 or 0 in inside.shape:
        raise DataError(f"mask {inside.shape} is not a mask; pass an array of shape (h, w)")
    height, width = base.shape[:2]
    rows = (np.arange(height) + 0.5) * inside.shape[0] / height
    columns = (np.arange(width) + 0.5) * inside.shape[1] / width
    inside = inside[rows.astype(int)[:, None], columns.astype(int)].astype(bool)
    line = max(1, round(max(height, width) / 256))  # as thick on a large image shown at the same size
    base[_grown(inside, line) & ~inside] = (0.05, 0.05, 0.05)
    # The image's own edge is no border: a region that runs over it stays open there.
    base[inside & _grown(~inside, line)] = colour
    return base


def side_by_side(images: Sequence[ArrayLike], gap_px: int = 8) -> Image:
    """Join images of one height into a strip with white gaps.

    Args:
        images: each (h, w, 3) in [0, 1]; widths may differ.
        gap_px: width of a gap, >= 0.

    Returns:
        (h, sum of widths and gaps, 3).

    Raises:
        ConfigError: ``gap_px`` is negative.
        DataError: there is no image, a shape is wrong or the heights differ.
    """
    if gap_px < 0:
        raise ConfigError(f"gap_px: {gap_px} is negative; use 0 or more")
    parts = [colour_image(image) for image in images]
    if len({part.shape[0] for part in parts}) != 1:
        raise DataError(f"images: {[part.shape for part in parts]} cannot be joined; pass images of one height")
    gap = np.ones((parts[0].shape[0], gap_px, 3), dtype=np.float32)
    strip = [piece for part in parts for piece in (gap, part)]
    return np.concatenate(strip[1:], axis=1)


def _grown(mask: Mask, steps: int) -> Mask:
    """The mask and its 4-neighbours, ``steps`` times."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _resize(values: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear, pixel centres at half integers, edges held."""
    for axis, size in ((0, height), (1, width)):
        old = values.shape[axis]
        centre = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0.0, old - 1.0)
        below = np.minimum(centre.astype(int), max(old - 2, 0))
        share = centre - below
        share = share[:, None] if axis == 0 else share
        above = np.minimum(below + 1, old - 1)
        values = np.take(values, below, axis) * (1.0 - share) + np.take(values, above, axis) * share
    return values


def heat(
    image: npt.NDArray[np.float32], score_map: npt.NDArray[np.float32], calibration: Calibration
) -> npt.NDArray[np.float32]:
    """Lay a score map over an image on the detector's own scale: a usual normal image stays as it is.

    Args:
        image: (h, w, 3) in [0, 1].
        score_map: (h', w').
        calibration: of the detector.

    Returns:
        (h, w, 3) in [0, 1].
    """
    high = calibration.heat_high
    # Above a false-alarm rate of one half the threshold lies below the median.
    low = min(calibration.heat_low, high - 1e-6 * max(1.0, abs(high)))
    return heat_overlay(image, score_map, low, high)
