"""Heat maps: anomaly maps drawn on the images they belong to, and outlines of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from advrad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from advrad.detectors.config import Calibration

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]

CYAN: Colour = (0.0, 0.85, 1.0)
WHITE: Colour = (1.0, 1.0, 1.0)
GREEN: Colour = (0.45, 1.0, 0.2)
_DARK: Colour = (0.05, 0.05, 0.05)

# Where the colours lie on a scale on which 0 is the usual maximum of a normal map and 1 the level that normal maps
# hardly exceed: amber near the level, orange at 2, magenta from 4 on. Below the first value there is no colour.
_REACH = np.array([0.5, 1.0, 2.0, 4.0])
_COLOURS = np.array([[1.00, 0.85, 0.00], [1.00, 0.75, 0.00], [1.00, 0.35, 0.05], [0.95, 0.00, 0.45]])
_STRENGTH = np.array([0.0, 0.29, 0.34, 0.44])
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
# Colours without lightness: added to an image, they leave its light and dark, so the defect below stays visible.
_HUES = _COLOURS - (_COLOURS @ _LUMINANCE)[:, None]
# What a colour takes from the contrast and adds to the lightness, at full strength: black and white take colour, too.
_FADE, _LIFT = 0.30, 0.15
#: Distance of the line around the map from what it surrounds, in thicknesses of a line: a broken line has place there.
GAP = 2
#: Length of a dash of a broken line, in thicknesses of a line.
DASH = 6


def draw_heat_map(image: ArrayLike, anomaly_map: ArrayLike, calibration: Calibration) -> Image:
    """Draw an anomaly map on its image, on the scale of a calibrated detector.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        anomaly_map: Anomaly map, (h', w'), finite.
        calibration: Calibration of the detector. Its ``heat_low`` and ``heat_high`` are the scale, see
            :func:`heat_overlay`; both come from normal images, so it is the same for all images of the product.

    Returns:
        The image with its heat map, (h, w, 3), in [0, 1].
    """
    return heat_overlay(image, anomaly_map, *heat_scale(calibration))


def heat_scale(calibration: Calibration) -> tuple[float, float]:
    """Usual maximum of a normal image's map, and the level that normal maps hardly exceed; the first is the smaller.

    Args:
        calibration: Calibration of the detector.
    """
    high = calibration.heat_high
    # With a false-alarm rate above one half the threshold is below the median.
    return min(calibration.heat_low, high - 1e-6 * max(1.0, abs(high))), high


def draw_proven_area(image: ArrayLike, lower_map: ArrayLike, level: float) -> Image:
    """Draw a broken line in green and black around the area that is proven to be defective.

    A pixel belongs to the area if its anomaly stays above ``level`` under every perturbation within the radius of the
    bounds. The line is broken, so it differs from the other outlines without its colour, too.

    Args:
        image: Image, (h, w, 3), in [0, 1], such as :func:`draw_heat_map` returns.
        lower_map: Lower bounds of the anomaly map, (h', w'), see :class:`advrad.detectors.base.ScoreBounds`.
        level: Value that the anomaly maps of normal images do not exceed, such as the threshold of the verdict.

    Returns:
        The image with the line, (h, w, 3), in [0, 1]; unchanged if nothing is proven.

    Raises:
        DataError: A shape is wrong, or a bound is not a number.

    Example:
        >>> import numpy as np
        >>> lower_map = np.zeros((8, 8))
        >>> lower_map[2:5, 2:5] = 1.0
        >>> draw_proven_area(np.full((32, 32, 3), 0.5), lower_map, level=0.7).max()
        np.float32(1.0)
    """
    bounds = np.asarray(lower_map, dtype=np.float64)
    if np.isnan(bounds).any():
        raise DataError("lower_map: a value is NaN; the model that made it is damaged")
    return outline(image, bounds > level, GREEN, broken=True)


def heat_overlay(image: ArrayLike, anomaly_map: ArrayLike, low: float, high: float) -> Image:
    """Draw an anomaly map on its image as a transparent layer of colour.

    The scale is fixed and does not follow the map: the same colour means the same in every image, and on a normal image
    that is far from ``high`` nothing is drawn. The colour leaves the light and dark of the image, so that a defect is
    visible below it. What exceeds ``high`` is surrounded by a white line at a small distance.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        anomaly_map: Anomaly map, (h', w'), finite; larger is more anomalous. It is resized to (h, w).
        low: Usual maximum of a normal image's map. The image is left as it is up to half way from ``low`` to ``high``.
        high: Level that normal images hardly exceed, such as the threshold. Larger values are surrounded by a line; the
            colours end at four times the distance of ``high`` from ``low``.

    Returns:
        The image with its heat map, (h, w, 3), in [0, 1].

    Raises:
        ConfigError: ``low`` is not below ``high``, or one of them is not finite.
        DataError: A shape is wrong, or the map has a value that is NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from advrad.inference import heat_overlay
        >>> heat_overlay(np.zeros((32, 32, 3)), np.eye(8), low=0.5, high=1.0).shape
        (32, 32, 3)
    """
    base = colour_image(image)
    values = map_on(base, anomaly_map)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(f"low, high: {low} and {high} are not a scale; low must be below high")
    return outline(tinted(base, (values - low) / (high - low)), values > high, WHITE, gap=GAP)


def map_on(image: Image, anomaly_map: ArrayLike) -> npt.NDArray[np.float64]:
    """Resize an anomaly map to an image.

    Args:
        image: Image, (h, w, 3).
        anomaly_map: Anomaly map, (h', w'), finite.

    Returns:
        The map, (h, w).

    Raises:
        DataError: The shape is wrong, or the map has a value that is NaN or infinite.
    """
    values = np.asarray(anomaly_map, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"anomaly_map {values.shape} is not a map; pass an array of shape (h, w)")
    if not np.isfinite(values).all():
        raise DataError("anomaly_map: a value is NaN or infinite; the model that made it has diverged")
    return _resized(values, image.shape[0], image.shape[1])


def tinted(base: Image, reach: npt.NDArray[np.float64]) -> Image:
    """Add the colours of a map to an image, where the map reaches the scale.

    Args:
        base: Image, (h, w, 3), in [0, 1].
        reach: Map, (h, w), on the scale on which 0 is the usual maximum of a normal map, and 1 its highest level.

    Returns:
        The image with the colours, (h, w, 3), in [0, 1].
    """
    image, near = base.copy(), reach > _REACH[0]
    values = reach[near]
    hues = np.stack([np.interp(values, _REACH, _HUES[:, channel]) for channel in range(3)], axis=-1)
    strength = np.interp(values, _REACH, _STRENGTH)[:, None]
    image[near] = np.clip((1.0 - _FADE * strength) * base[near] + strength * (_LIFT + hues), 0.0, 1.0)
    return image


def outline(
    image: ArrayLike, mask: ArrayLike, colour: Colour = CYAN, *, broken: bool = False, gap: int = 0, dash: int = DASH
) -> Image:
    """Draw a line around a mask: coloured, and dark outside, so that it is visible on any image.

    What the mask covers is left as it is.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        mask: Mask, (h', w'), bool; it is resized to the nearest pixel.
        colour: Colour of the inner line, RGB in [0, 1].
        broken: Whether the inner line is twice as thick and changes between the colour and dark.
        gap: Distance between the mask and the line, in thicknesses of a line.
        dash: Length of a dash of a broken line, in thicknesses of a line.

    Returns:
        A copy of the image with the line, (h, w, 3), in [0, 1].

    Raises:
        DataError: A shape is wrong.

    Example:
        >>> import numpy as np
        >>> from advrad.inference import outline
        >>> outline(np.zeros((32, 32, 3)), np.eye(8, dtype=bool)).max()
        np.float32(1.0)
    """
    from scipy.ndimage import binary_dilation

    base = colour_image(image).copy()
    inside = np.asarray(mask)
    if inside.ndim != 2 or 0 in inside.shape:
        raise DataError(f"mask {inside.shape} is not a mask; pass an array of shape (h, w)")
    height, width = base.shape[:2]
    rows = (np.arange(height) + 0.5) * inside.shape[0] / height
    columns = (np.arange(width) + 0.5) * inside.shape[1] / width
    inside = inside[rows.astype(int)[:, None], columns.astype(int)].astype(bool)
    line_px = line_of(height, width)
    if not inside.any():
        return base
    if gap:
        inside = binary_dilation(inside, iterations=gap * line_px)
    # The edge of the image is not a border: a region that reaches it stays open there.
    around = binary_dilation(inside, iterations=2 * line_px if broken else line_px)
    base[binary_dilation(around, iterations=line_px) & ~around] = _DARK
    line = around & ~inside
    base[line] = colour
    if broken:
        # Stripes across the image break a line in nearly every direction.
        stripes = (2 * np.arange(height)[:, None] + np.arange(width)) // (dash * line_px) % 2 == 1
        base[line & stripes] = _DARK
    return base


def line_of(height_px: int, width_px: int) -> int:
    """Thickness of lines on an image, in pixels: equal when images are shown at the same size.

    Args:
        height_px: Height of the image.
        width_px: Width of the image.
    """
    return max(1, round(max(height_px, width_px) / 256))


def colour_image(image: ArrayLike) -> Image:
    """Check that an array is a colour image.

    Args:
        image: Image, (h, w, 3), finite.

    Returns:
        The image, (h, w, 3) float32, clipped to [0, 1].

    Raises:
        DataError: The shape is wrong, or a value is NaN or infinite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise DataError(f"image {values.shape} is not a colour image; pass an array of shape (h, w, 3)")
    if not np.isfinite(values).all():
        raise DataError("image: a value is NaN or infinite; pass values in [0, 1]")
    return np.clip(values, 0.0, 1.0)


def _resized(values: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation with pixel centres at half integers; the edges are continued."""
    from scipy.ndimage import zoom

    factors = (height / values.shape[0], width / values.shape[1])
    return np.asarray(zoom(values, factors, order=1, mode="nearest", grid_mode=True))
