"""The engraved text on the flange, as a height map in part units."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from advrad.demo.flange.fields import Array, polyline_distance, step

DEPTH = 0.0125
"""Largest depth of the engraving, in part units."""

_PITCH = 0.0025  # width of one cell of the height map, in part units

# fmt: off
# Letters on a 4 x 6 grid: each is a list of polylines, which an engraving machine would cut.
_GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((0, 6), (2, 0), (4, 6)), ((0.7, 4), (3.3, 4))),
    "B": (((0, 0), (2.8, 0), (3.7, 1.4), (2.8, 3), (0, 3)), ((2.8, 3), (4, 4.4), (3, 6), (0, 6), (0, 0))),
    "D": (((0, 0), (2.4, 0), (4, 1.6), (4, 4.4), (2.4, 6), (0, 6), (0, 0)),),
    "H": (((0, 0), (0, 6)), ((4, 0), (4, 6)), ((0, 3), (4, 3))),
    "R": (((0, 6), (0, 0), (3, 0), (4, 1.5), (3, 3.2), (0, 3.2)), ((2.2, 3.2), (4, 6))),
    "-": (((0.8, 3.2), (3.2, 3.2)),),
    "0": (((1.2, 0), (2.8, 0), (4, 1.4), (4, 4.6), (2.8, 6), (1.2, 6), (0, 4.6), (0, 1.4), (1.2, 0)),),
    "1": (((0.8, 1.4), (2.2, 0), (2.2, 6)),),
    "3": (((0, 0), (4, 0), (2, 2.4), (4, 3.8), (3.4, 5.6), (2, 6), (0, 5.2)),),
    "4": (((3, 6), (3, 0), (0, 4.2), (4, 4.2)),),
    "6": (((3.4, 0), (1.2, 1.8), (0, 4), (0.8, 6), (3.2, 6), (4, 4.6), (3.2, 3), (0.8, 3)),),
    "7": (((0, 0), (4, 0), (1.4, 6)),),
    "8": (
        ((2, 2.8), (0.5, 1.6), (1, 0), (3, 0), (3.5, 1.6), (2, 2.8)),
        ((2, 2.8), (0, 4.4), (0.8, 6), (3.2, 6), (4, 4.4), (2, 2.8)),
    ),
}
# fmt: on


def engraved_height(lines: tuple[str, ...], across: Array, down: Array) -> Array:
    """Compute the height of the engraved surface.

    Args:
        lines: Lines of the text.
        across: Coordinates along the lines, (h, w), from the centre of the text, in part units.
        down: Coordinates across the lines, (h, w), from the centre of the text, in part units.

    Returns:
        Heights, (h, w), <= 0; 0 beside the text.
    """
    from scipy.ndimage import map_coordinates

    ground = _ground(lines)
    rows, columns = ground.shape
    places = np.stack((down / _PITCH + (rows - 1) / 2, across / _PITCH + (columns - 1) / 2))
    height: Array = map_coordinates(ground, places, order=1, mode="constant", cval=0.0)
    return height


@lru_cache(maxsize=16)
def _ground(lines: tuple[str, ...]) -> Array:
    """Make the height map, (rows, columns), <= 0, of the engraved text, centred, in part units."""
    heights, gap = (0.082, 0.068, 0.068), 0.034
    columns, rows = int(0.52 / _PITCH), int(0.30 / _PITCH)
    x = ((np.arange(columns, dtype=np.float32) - (columns - 1) / 2) * _PITCH)[None, :]
    y = ((np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * _PITCH)[:, None]
    ground = np.zeros((rows, columns), np.float32)
    top = -(sum(heights[: len(lines)]) + gap * (len(lines) - 1)) / 2
    for line, height in zip(lines, heights, strict=False):
        unit = height / 6
        left = -(len(line) * 5.6 - 1.6) * unit / 2
        for number, letter in enumerate(line):
            for stroke in _GLYPHS.get(letter, ()):
                points = np.array(stroke, np.float64) * unit + (left + number * 5.6 * unit, top)
                gaps, _ = polyline_distance(x, y, points, 0.012)
                np.minimum(ground, -DEPTH * step(gaps, 0.0115, 0.0), out=ground)
        top += height + gap
    return ground
