"""Arrays over the pixels of an image: noise, smooth steps and distances to lines."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator


def smooth_noise(rng: Rng, height: int, width: int, rows: int, columns: int) -> Array:
    """Draw smooth noise of about unit variance.

    Args:
        rng: Random generator.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        rows: Number of independent values along the height.
        columns: Number of independent values along the width.

    Returns:
        Noise, (height, width).
    """
    grid = rng.standard_normal((rows + 1, columns + 1), dtype=np.float32)
    noise: Array = np.matmul(_upsampling(height, rows) @ grid, _upsampling(width, columns).T, dtype=np.float32)
    return noise


@lru_cache(maxsize=64)
def _upsampling(size: int, cells: int) -> Array:
    """Make the matrix, (size, cells + 1), of smooth interpolation between cells + 1 knots."""
    place = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    left = place.astype(np.intp)
    share = place - left
    share = share * share * (3 - 2 * share)
    matrix = np.zeros((size, cells + 1), np.float32)
    matrix[np.arange(size), left] = 1 - share
    matrix[np.arange(size), left + 1] = share
    return matrix


def clouds(rng: Rng, from_x: Array, from_y: Array, cell: float) -> Array:
    """Draw smooth noise of about unit variance on a randomly rotated grid, which hides the grid's directions.

    Args:
        rng: Random generator.
        from_x: Horizontal distances from the centre, (1, w).
        from_y: Vertical distances from the centre, (h, 1).
        cell: Distance between independent values, in the units of the coordinates.

    Returns:
        Noise, (h, w).
    """
    from scipy.ndimage import map_coordinates

    reach = float(np.hypot(np.abs(from_x).max(initial=0), np.abs(from_y).max(initial=0)))
    half = int(np.ceil(reach / cell)) + 2
    grid = rng.standard_normal((2 * half + 1, 2 * half + 1), dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.float32(np.cos(turn) / cell), np.float32(np.sin(turn) / cell)
    places = np.stack((from_x * cosine + from_y * sine + half, from_y * cosine - from_x * sine + half))
    noise: Array = map_coordinates(grid, places, order=3, mode="nearest")
    return noise * np.float32(1.25)


def step(value: Array, low: float, high: float) -> Array:
    """Compute a smooth step from 0 at ``low`` to 1 at ``high``; the step falls if ``high < low``.

    Args:
        value: Values of any shape.
        low: Value at which the step is 0.
        high: Value at which the step is 1.
    """
    share = np.clip((value - low) * (1 / (high - low)), 0, 1)
    return share * share * (3 - 2 * share)  # type: ignore[no-any-return]


def polyline_distance(x: Array, y: Array, points: NDArray[np.float64], reach: float) -> tuple[Array, Array]:
    """Compute the distance to a polyline and the position of the nearest point on it.

    Args:
        x: Horizontal coordinates, (1, w), increasing.
        y: Vertical coordinates, (h, 1), increasing.
        points: Corners of the line, (n, 2), x and y.
        reach: Largest distance of interest.

    Returns:
        Distances, (h, w), infinite beyond ``reach``, and positions on the line, (h, w), in [0, n - 1].
    """
    distance = np.full((y.size, x.size), np.inf, np.float32)
    place = np.zeros_like(distance)
    for index, ((ax, ay), (bx, by)) in enumerate(pairwise(points)):
        rows = slice(*np.searchsorted(y[:, 0], (min(ay, by) - reach, max(ay, by) + reach)))
        columns = slice(*np.searchsorted(x[0], (min(ax, bx) - reach, max(ax, bx) + reach)))
        from_x, from_y = x[:, columns] - np.float32(ax), y[rows] - np.float32(ay)
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
        share = from_x * np.float32((bx - ax) / length) + from_y * np.float32((by - ay) / length)
        share = np.clip(share, 0, 1)
        gap = np.hypot(from_x - share * np.float32(bx - ax), from_y - share * np.float32(by - ay))
        nearer = gap < distance[rows, columns]
        distance[rows, columns][nearer] = gap[nearer]
        place[rows, columns][nearer] = share[nearer] + index
    distance[distance > reach] = np.inf
    return distance, place
