"""The surface of the flange: its shape, its finish and the light that reaches it.

A part is a set of fields over the pixels (slope, direction of the turning marks, facet spread, reflectance, ...).
Machining and damage change the fields; ``render`` computes the light from them once, at the end.

Lengths are in half image sides: the image spans [-1, 1] in x (to the right) and y (downwards). A slope is the
derivative of the height towards the camera. Fields have ``SUPERSAMPLING`` samples per pixel and direction.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from advrad.demo.flange.engraving import DEPTH, engraved_height
from advrad.demo.flange.fields import Array, Rng, step
from advrad.demo.flange.scene import Scene

Window = tuple[slice, slice]

SUPERSAMPLING = 2

# Dimensions of the part, in part units.
OUTER_RADIUS = 0.86
BORE_RADIUS = 0.175
HOLE_CIRCLE = 0.655
HOLE_COUNT = 5
SINK_RADIUS = 0.098
HOLE_RADIUS = 0.056
SINK_DEPTH = 0.05
CODE_LINES = ("AR-60H7", "0418B")

# Knots (radius, value) of the turned profile: bore chamfer, hub, step with fillet, face, sealing groove, rim.
# fmt: off
_SLOPE_KNOTS = (
    (0.0, 0.0), (0.172, 0.0), (0.178, 0.85), (0.200, 0.85), (0.205, 0.0), (0.372, 0.0), (0.378, -0.8),
    (0.398, -0.8), (0.402, -3.0), (0.412, -3.0), (0.422, -0.5), (0.440, 0.0), (0.478, 0.0), (0.482, -2.2),
    (0.488, -2.2), (0.492, 0.0), (0.508, 0.0), (0.512, 2.2), (0.518, 2.2), (0.522, 0.0), (0.822, 0.0),
    (0.828, -0.9), (0.858, -1.0), (1.5, -1.0),
)
_OCCLUSION_KNOTS = (
    (0.0, 1.0), (0.398, 1.0), (0.404, 0.62), (0.414, 0.55), (0.45, 0.9), (0.476, 1.0), (0.484, 0.6),
    (0.490, 0.34), (0.510, 0.34), (0.516, 0.6), (0.524, 1.0), (1.5, 1.0),
)
_REFLECT_KNOTS = ((0.0, 1.0), (0.20, 1.0), (0.21, 1.06), (0.37, 1.06), (0.42, 0.97), (1.5, 0.97))
_BINS = 1024
_BIN_REACH = 1.5
# fmt: on


@lru_cache(maxsize=1)
def _profile() -> tuple[Array, Array, Array, Array]:
    """Compute radius, slope, occlusion and reflectance at the centres of the radial bins."""
    radius = (np.arange(_BINS, dtype=np.float32) + 0.5) * (_BIN_REACH / _BINS)
    slope, occlusion, reflect = (
        np.interp(radius, *np.array(knots).T).astype(np.float32)
        for knots in (_SLOPE_KNOTS, _OCCLUSION_KNOTS, _REFLECT_KNOTS)
    )
    return radius, slope, occlusion, reflect


def _turning_marks(rng: Rng) -> Array:
    """Draw the radial slope left by the tool, (bins, angles): nearly the same along each turn."""
    turns = 56
    fine = rng.standard_normal((_BINS, 1), dtype=np.float32)
    drift = rng.standard_normal((_BINS, turns), dtype=np.float32)
    # The marks are periodic along a turn: the last column continues into the first.
    angles = 512
    place = np.arange(angles, dtype=np.float32) * (turns / angles)
    left = place.astype(np.intp)
    share = place - left
    share = share * share * (3 - 2 * share)
    along = drift[:, left] * (1 - share) + drift[:, (left + 1) % turns] * share
    coarse = np.repeat(rng.standard_normal((_BINS // 4, 1), dtype=np.float32), 4, axis=0)
    marks: Array = 0.060 * fine + 0.035 * coarse + 0.045 * along
    return marks


class Part:
    """A flange: turned, drilled and engraved.

    Args:
        scene: Pose and lighting.
        finish: Random generator of the turning marks.
        size_px: Side of the square image in pixels.

    Attributes:
        scene: Pose and lighting.
        x: Horizontal coordinates of the samples, (1, n), n = SUPERSAMPLING * size_px.
        y: Vertical coordinates of the samples, (n, 1).
        pitch: Distance between neighbouring samples.
        radius: Distance of each sample from the axis, (n, n), in part units.
        fields: All fields, (10, n, n), in the order of ``FIELDS``; each is also an attribute of its own name.
        coats: Layers on the metal, such as rust: window, opacity (h, w), colour (h, w, 3) or (3,).
    """

    FIELDS = (
        "slope_x",  # derivative of the height
        "slope_y",
        "grain_x",  # unit vector across the turning marks
        "grain_y",
        "across",  # spread of the facets across the marks
        "along",  # spread of the facets along the marks
        "reflect",  # reflectance
        "occlusion",  # share of the light that arrives
        "matter",  # 1 where there is metal
        "under",  # light on the background, seen where there is no metal
    )

    def __init__(self, scene: Scene, finish: Rng, size_px: int) -> None:
        count = SUPERSAMPLING * size_px
        axis = (np.arange(count, dtype=np.float32) + 0.5) * np.float32(2 / count) - 1
        self.scene = scene
        self.x, self.y = axis[None, :], axis[:, None]
        self.pitch = 2 / count
        self.coats: list[tuple[Window, Array, Array]] = []
        self._blank: dict[object, tuple[Window, Array]] = {}
        self.fields = np.empty((len(self.FIELDS), count, count), np.float32)
        self._finish = finish
        self._turn()
        for number in range(HOLE_COUNT):
            self.drill(number)
        self.engrave(CODE_LINES)

    def __getattr__(self, name: str) -> Array:
        """Return the field of that name."""
        if name in Part.FIELDS:
            field: Array = self.fields[Part.FIELDS.index(name)]
            return field
        raise AttributeError(name)

    def to_image(self, radius: float, angle: float) -> tuple[float, float]:
        """Convert a point of the part to image coordinates.

        Args:
            radius: Distance from the axis, in part units.
            angle: Angle in radians, clockwise from the right.

        Returns:
            x and y.
        """
        angle += self.scene.angle
        reach = radius * self.scene.scale
        return (
            float(self.scene.centre[0] + reach * np.cos(angle)),
            float(self.scene.centre[1] + reach * np.sin(angle)),
        )

    def hole_centre(self, number: int) -> tuple[float, float]:
        """Return the image coordinates of the centre of a hole.

        Args:
            number: Number of the hole, from 0 to HOLE_COUNT - 1.
        """
        return self.to_image(HOLE_CIRCLE, 2 * np.pi * number / HOLE_COUNT - np.pi / 2)

    def window(self, x_low: float, y_low: float, x_high: float, y_high: float) -> Window:
        """Return the window of the samples between two corners, cut off at the edge of the image."""
        return (
            slice(*(int(i) for i in np.searchsorted(self.y[:, 0], (y_low, y_high)))),
            slice(*(int(i) for i in np.searchsorted(self.x[0], (x_low, x_high)))),
        )

    def window_around(self, centre: tuple[float, float], reach: float) -> tuple[Window, Array, Array]:
        """Find the samples around a point.

        Args:
            centre: Point, x and y.
            reach: Half width of the window, in half image sides.

        Returns:
            The window, and the distances of its samples from the point: horizontal, (1, w), and vertical, (h, 1).
        """
        window = self.window(centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        rows, columns = window
        return window, self.x[:, columns] - np.float32(centre[0]), self.y[rows] - np.float32(centre[1])

    def add_height(self, window: Window, height: Array) -> None:
        """Add a height map, (h, w), to the surface in a window."""
        if min(height.shape) < 2:
            return
        along_y, along_x = np.gradient(height, np.float32(self.pitch))
        self.slope_x[window] += along_x
        self.slope_y[window] += along_y

    def shadow_shift(self, height: float) -> tuple[float, float]:
        """Return where the shadow of a point falls, relative to the point.

        Args:
            height: Height of the point above the ground.
        """
        key = self.scene.lamps[0]
        return -2.3 * key.x * height, -2.3 * key.y * height

    def _turn(self) -> None:
        scale, (centre_x, centre_y) = self.scene.scale, self.scene.centre
        from_x, from_y = self.x - np.float32(centre_x), self.y - np.float32(centre_y)
        squared = from_x * from_x + from_y * from_y
        distance = np.sqrt(squared) + np.float32(1e-6)
        self.radius = radius = distance * np.float32(1 / scale)
        self.grain_x[...] = from_x / distance
        self.grain_y[...] = from_y / distance
        place = radius * np.float32(_BINS / _BIN_REACH)
        bins = np.minimum(place, _BINS - 1).astype(np.int32)
        turn = np.arctan2(self.grain_y, self.grain_x)
        turns = (turn * np.float32(512 / (2 * np.pi)) + np.float32(512)).astype(np.int32) & 511
        _, slopes, occlusions, reflects = _profile()
        marks = _turning_marks(self._finish)
        flats = (np.abs(slopes) < 0.2)[:, None]
        streaks = 1 + 0.07 * self._finish.standard_normal(_BINS, dtype=np.float32)
        radial = (slopes[:, None] + marks * np.where(flats, 1.0, 0.35).astype(np.float32)).ravel()
        slope = radial.take(bins * 512 + turns)
        np.multiply(slope, self.grain_x, out=self.slope_x)
        np.multiply(slope, self.grain_y, out=self.slope_y)
        self.across[...] = 0.30
        self.along[...] = 0.028
        np.take(reflects * streaks, bins, out=self.reflect)
        np.take(occlusions, bins, out=self.occlusion)
        edge = self.pitch / scale
        outer = np.clip((OUTER_RADIUS - radius) / edge + 0.5, 0, 1)
        np.multiply(outer, np.clip((radius - BORE_RADIUS) / edge + 0.5, 0, 1), out=self.matter)
        # The part floats a little above the belt: its shadow is soft and falls away from the key light.
        shift_x, shift_y = self.shadow_shift(0.075)
        away_x, away_y = from_x - np.float32(shift_x), from_y - np.float32(shift_y)
        shadow = np.sqrt(away_x * away_x + away_y * away_y)
        self.under[...] = 0.16 + 0.84 * step(shadow, 0.80 * scale, 0.98 * scale)
        # Inside the bore, only a small part of the belt is lit; _bore adds it.
        self.under[radius < OUTER_RADIUS - 0.2] = 0.10
        self._bore(radius)

    def _bore(self, radius: Array) -> None:
        """Add the light on the wall of the bore."""
        window, from_x, from_y = self.window_around(self.scene.centre, 1.05 * BORE_RADIUS * self.scene.scale)
        depth = np.clip((radius[window] - 0.128) / (BORE_RADIUS - 0.128), 0, 1)
        key = self.scene.lamps[0]
        towards = -(from_x * key.x + from_y * key.y) / (BORE_RADIUS * np.hypot(key.x, key.y))
        self.under[window] += step(depth, 0.0, 0.12) * (0.5 + 3.6 * depth**2 * np.clip(towards + 0.1, 0, 1) ** 1.5)

    def drill(self, number: int, through: bool = True) -> None:
        """Make one hole: a cylindrical sink with a smaller hole through the part.

        Args:
            number: Number of the hole, from 0 to HOLE_COUNT - 1.
            through: Whether to drill the hole; False makes the sink only.
        """
        scale = self.scene.scale
        centre = self.hole_centre(number)
        window, from_x, from_y = self.window_around(centre, 1.35 * SINK_RADIUS * scale)
        self._blank.setdefault(("hole", number), (window, self.fields[:, *window].copy()))
        distance = np.hypot(from_x, from_y) + np.float32(1e-6)
        radius = distance / np.float32(scale)
        out_x, out_y = from_x / distance, from_y / distance
        edge = self.pitch / scale
        sunk = np.clip((SINK_RADIUS - radius) / edge + 0.5, 0, 1)
        # Rim, wall, floor, and the chamfer of the hole.
        slope = 0.9 * step(radius, SINK_RADIUS + 0.010, SINK_RADIUS + 0.006) * (radius > SINK_RADIUS)
        slope = slope + 2.6 * ((radius < SINK_RADIUS) & (radius > SINK_RADIUS - 0.009))
        if through:
            slope = slope + 0.8 * ((radius < HOLE_RADIUS + 0.010) & (radius > HOLE_RADIUS))
        ripple = np.sin(radius * np.float32(760.0)) * np.float32(0.035) * (radius < SINK_RADIUS)
        keep = 1 - np.maximum(sunk, slope > 0)
        self.slope_x[window] = keep * self.slope_x[window] + (slope + ripple) * out_x
        self.slope_y[window] = keep * self.slope_y[window] + (slope + ripple) * out_y
        inside = sunk > 0
        self.grain_x[window][inside] = out_x[inside]
        self.grain_y[window][inside] = out_y[inside]
        # The milled floor is rougher than the turned face, and the wall shades the side next to the light.
        shift_x, shift_y = self.shadow_shift(SINK_DEPTH * scale)
        lit = step(np.hypot(from_x - shift_x, from_y - shift_y) / np.float32(scale), SINK_RADIUS + 0.012, 0.074)
        wall = step(radius, SINK_RADIUS, SINK_RADIUS - 0.022)
        shade = (0.34 + 0.50 * lit) * (0.55 + 0.45 * wall)
        self.occlusion[window] *= 1 - sunk * (1 - shade)
        self.along[window] += sunk * 0.06
        if through:
            self.matter[window] *= np.clip((radius - HOLE_RADIUS) / edge + 0.5, 0, 1)
            key = self.scene.lamps[0]
            towards = -(from_x * key.x + from_y * key.y) / (HOLE_RADIUS * np.hypot(key.x, key.y))
            depth = np.clip((radius - 0.026) / (HOLE_RADIUS - 0.026), 0, 1)
            gleam = depth**2 * np.clip(towards, 0, 1) ** 1.5
            hole = radius < HOLE_RADIUS + edge
            self.under[window][hole] = (0.07 + 1.9 * gleam)[hole]

    def engrave(self, lines: tuple[str, ...], smear: tuple[float, float] = (0.0, 0.0), depth: float = 1.0) -> Array:
        """Engrave text into the face, below the hub.

        Args:
            lines: Upper and lower line of the text.
            smear: Displacement of a second pass of the tool, x and y in part units; (0, 0) for a single pass.
            depth: Factor on the depth.

        Returns:
            Heights, <= 0, over the window of :meth:`engraving_window`.
        """
        window = self.engraving_window()
        self._blank.setdefault("code", (window, self.fields[:, *window].copy()))
        rows, columns = window
        from_x = (self.x[:, columns] - np.float32(self.scene.centre[0])) / np.float32(self.scene.scale)
        from_y = (self.y[rows] - np.float32(self.scene.centre[1])) / np.float32(self.scene.scale)
        # The text follows a circle: ``across`` is the arc length, ``down`` the radius.
        across = -(np.arctan2(from_y, from_x) - np.float32(np.pi / 2 + self.scene.angle)) * HOLE_CIRCLE
        down = np.hypot(from_x, from_y) - np.float32(HOLE_CIRCLE + 0.015)
        height = engraved_height(lines, across, down)
        if smear != (0.0, 0.0):
            height = np.minimum(height, engraved_height(lines, across - smear[0], down - smear[1]))
        height *= np.float32(depth)
        self.add_height(window, height * np.float32(self.scene.scale))
        floor = np.sqrt(np.clip(height / -DEPTH, 0, 1))
        self.occlusion[window] *= 1 - 0.85 * floor
        self.along[window] += 0.10 * floor
        return height

    def engraving_window(self) -> Window:
        """Return the window of the engraving."""
        centre = self.to_image(HOLE_CIRCLE + 0.01, np.pi / 2)
        return self.window(centre[0] - 0.29, centre[1] - 0.17, centre[0] + 0.29, centre[1] + 0.17)

    def restore(self, key: object) -> Window:
        """Undo a hole or the engraving.

        Args:
            key: ``("hole", number)`` for a hole, ``"code"`` for the engraving.

        Returns:
            The window that was restored.
        """
        window, blank = self._blank[key]
        self.fields[:, *window] = blank
        return window
