"""Building blocks of the defects: random points, paths and outlines on the part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advrad.demo.flange.fields import Array, Mask, Rng
from advrad.demo.flange.surface import HOLE_COUNT, Part, Window

Points = NDArray[np.float64]

PATH_SEGMENTS = 24
"""Number of straight segments of a random path."""


def empty_mask(part: Part) -> Mask:
    """Make a mask without a defect, one value per sample of the part."""
    return np.zeros(part.radius.shape, np.bool_)


def path_window(part: Part, points: Points, margin: float) -> tuple[Window, Array, Array]:
    """Find the samples around a path.

    Args:
        part: Part that the path lies on.
        points: Corners of the path, (n, 2), x and y.
        margin: Distance from the path to the edge of the window.

    Returns:
        The window, and the coordinates of its samples: x, (1, w), and y, (h, 1).
    """
    low, high = points.min(0) - margin, points.max(0) + margin
    window = part.window(low[0], low[1], high[0], high[1])
    return window, part.x[:, window[1]], part.y[window[0]]


def random_point(part: Part, rng: Rng, low: float, high: float, clearance: float) -> tuple[float, float]:
    """Draw a point on the part between two radii, outside of the holes.

    Args:
        part: Part to draw from.
        rng: Random generator.
        low: Smallest distance from the axis, in part units.
        high: Largest distance from the axis, in part units.
        clearance: Smallest distance from the centre of every hole.
    """
    holes = [part.hole_centre(number) for number in range(HOLE_COUNT)]
    for _ in range(64):
        point = part.to_image(float(np.sqrt(rng.uniform(low**2, high**2))), rng.uniform(0, 2 * np.pi))
        if min(np.hypot(point[0] - x, point[1] - y) for x, y in holes) > clearance:
            break
    return point


def random_path(rng: Rng, start: tuple[float, float], heading: float, length: float, bend: float, jag: float) -> Points:
    """Draw a path of ``PATH_SEGMENTS`` segments.

    Args:
        rng: Random generator.
        start: First point, x and y.
        heading: Direction in radians.
        length: Length of the path if it were straight.
        bend: Angle in radians by which the path turns from its start to its end.
        jag: Standard deviation of the random turn at each corner, in radians.

    Returns:
        Corners, (PATH_SEGMENTS + 1, 2), x and y.
    """
    turns = heading + bend * np.linspace(-0.5, 0.5, PATH_SEGMENTS) + jag * rng.standard_normal(PATH_SEGMENTS)
    steps = np.stack((np.cos(turns), np.sin(turns)), 1) * (length / PATH_SEGMENTS)
    return np.concatenate((np.zeros((1, 2)), np.cumsum(steps, 0))) + start


def blob_distance(rng: Rng, from_x: Array, from_y: Array, roughness: float) -> Array:
    """Compute the distance from the centre, divided by the radius of an irregular outline.

    Args:
        rng: Random generator.
        from_x: Horizontal distances from the centre.
        from_y: Vertical distances from the centre.
        roughness: Size of the irregularities; 0 gives a circle.

    Returns:
        Relative distances, in the units of the coordinates; below 1 is inside a blob of unit size.
    """
    angle = np.arctan2(from_y, from_x)
    outline = np.ones_like(angle)
    for harmonic in range(2, 9):
        amount = roughness * rng.uniform(0.3, 1.0) / harmonic
        outline += np.float32(amount) * np.cos(harmonic * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.divide(np.hypot(from_x, from_y), outline, dtype=np.float32)


def replace_metal(part: Part, window: Window, where: Mask, reflect: float, spread: float, occlusion: Array) -> None:
    """Put a piece of other metal on the part.

    Args:
        part: Part to change.
        window: Window of the samples.
        where: Samples that the piece covers, (h, w).
        reflect: Reflectance of the piece.
        spread: Spread of its facets, in both directions.
        occlusion: Share of the light that arrives, (h, w).
    """
    for field, value in ((part.across, spread), (part.along, spread), (part.reflect, reflect), (part.matter, 1.0)):
        field[window][where] = value
    part.occlusion[window][where] = occlusion[where]
