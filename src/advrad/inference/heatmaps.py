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

# From purple over red to pale yellow, RGB. Lightness rises steadily, so the order survives colour blindness and print.
# The dark end is also the transparent end.
_HEAT = np.array([[0.30, 0.05, 0.42], [0.58, 0.15, 0.40], [0.85, 0.28, 0.24], [0.97, 0.55, 0.10], [0.99, 0.90, 0.50]])
# Opacity of the strongest colour: the defect below it stays visible.
_OPACITY = 0.75
# Length of a dash of a broken line, in thicknesses of a line.
_DASH = 6


def draw_heat_map(image: ArrayLike, anomaly_map: ArrayLike, calibration: Calibration) -> Image:
    """Draw an anomaly map on its image, on the scale of a calibrated detector.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        anomaly_map: Anomaly map, (h', w'), finite.
        calibration: Calibration of the detector. Its ``heat_low`` and ``heat_high`` are the scale.

    Returns:
        The image with its heat map, (h, w, 3), in [0, 1].
    """
    high = calibration.heat_high
    # With a false-alarm rate above one half the threshold is below the median.
    low = min(calibration.heat_low, high - 1e-6 * max(1.0, abs(high)))
    return heat_overlay(image, anomaly_map, low, high)


def draw_proven_area(image: ArrayLike, lower_map: ArrayLike, level: float) -> Image:
    """Draw the border of the area that is proven to be defective: a broken line in green and black.

    A pixel belongs to the area if its anomaly stays above ``level`` under every perturbation within the radius of the
    bounds. The line is broken, so it differs from the other outlines without its colour, too.

    Args:
        image: Image, (h, w, 3), in [0, 1], such as :func:`draw_heat_map` returns.
        lower_map: Lower bounds of the anomaly map, (h', w'), see :class:`advrad.detectors.base.ScoreBounds`.
        level: Value that the anomaly maps of normal images do not exceed, such as the threshold of the verdict.

    Returns:
        The image with the border, (h, w, 3), in [0, 1]; unchanged if nothing is proven.

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

    The scale is fixed and does not follow the map: a normal image stays as it is, and its largest harmless value does
    not get the colour of a defect.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        anomaly_map: Anomaly map, (h', w'), finite; larger is more anomalous. It is resized to (h, w).
        low: Value up to which the image is left as it is, such as the usual maximum of a normal image's map.
        high: Value of the strongest colour, such as the threshold. Larger values are outlined.

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
    values = np.asarray(anomaly_map, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"anomaly_map {values.shape} is not a map; pass an array of shape (h, w)")
    if not np.isfinite(values).all():
        raise DataError("anomaly_map: a value is NaN or infinite; the model that made it has diverged")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(f"low, high: {low} and {high} are not a scale; low must be below high")
    values = _resized(values, base.shape[0], base.shape[1])
    heat = np.clip((values - low) / (high - low), 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, len(_HEAT))
    colour = np.stack([np.interp(heat, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    opacity = _OPACITY * heat[..., None]
    mixed = np.asarray((1.0 - opacity) * base + opacity * colour, dtype=np.float32)
    return outline(mixed, values > high, WHITE)


def outline(image: ArrayLike, mask: ArrayLike, colour: Colour = CYAN, *, broken: bool = False) -> Image:
    """Draw the border of a mask: coloured inside and dark outside, so that it is visible on any image.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        mask: Mask, (h', w'), bool; it is resized to the nearest pixel.
        colour: Colour of the inner line, RGB in [0, 1].
        broken: Whether the inner line is twice as thick and changes between the colour and dark.

    Returns:
        A copy of the image with the border, (h, w, 3), in [0, 1].

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
    line_px = max(1, round(max(height, width) / 256))  # equally thick when images are shown at the same size
    base[binary_dilation(inside, iterations=line_px) & ~inside] = _DARK
    # The edge of the image is not a border: a region that reaches it stays open there.
    inner = inside & binary_dilation(~inside, iterations=2 * line_px if broken else line_px)
    base[inner] = colour
    if broken:
        # Stripes across the image break a line in nearly every direction.
        stripes = (2 * np.arange(height)[:, None] + np.arange(width)) // (_DASH * line_px) % 2 == 1
        base[inner & stripes] = _DARK
    return base


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
