"""The metal part that the made-up product consists of: its shape, its finish and the light on it.

A part is a stack of fields over the pixels (slope, direction of the turning marks, facet spread,
reflectance, ...). Machining and damage alter the fields; ``product.render`` lights them once at the end.

Lengths are in half image sides: the image spans [-1, 1] in x (to the right) and y (downwards). A slope is
the derivative of the height towards the camera. Fields are supersampled by ``SUPERSAMPLING``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from advrad.demo.flange.engraving import DEPTH, engraved_height
from advrad.demo.flange.fields import Array, Rng, step

Window = tuple[slice, slice]

SUPERSAMPLING = 2

# The drawing of the part, in part units.
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
class Lamp(NamedTuple):
    """One area light, given by the surface normal (x, y) that would mirror it into the camera."""

    x: float
    y: float
    size: float
    strength: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Setting:
    """What differs between two images of good parts.

    Attributes:
        centre: (x, y) of the part.
        scale: image half sides per part unit.
        angle: rotation of the part in radians, clockwise.
        lamps: the lights, the first one casts the shadows.
        ambient: light from everywhere else.
        exposure: factor on all light.
    """

    centre: tuple[float, float]
    scale: float
    angle: float
    lamps: tuple[Lamp, ...]
    ambient: float
    exposure: float

    @classmethod
    def draw(cls, rng: Rng) -> Setting:
        """A setting within the tolerances of a real inspection station."""
        warmth = rng.uniform(-0.025, 0.025)
        turn = np.deg2rad(rng.uniform(-9, 9))

        def lamp(angle: float, tilt: float, size: float, strength: float, colour: tuple[float, float, float]) -> Lamp:
            angle = np.deg2rad(angle + rng.uniform(-3, 3)) + turn
            strength *= rng.uniform(0.92, 1.08)
            return Lamp(float(tilt * np.cos(angle)), float(tilt * np.sin(angle)), size, strength, colour)

        lamps = (
            lamp(-122, 0.31, 0.052, 1.25, (1.02 + warmth, 0.99, 0.95 - warmth)),
            lamp(28, 0.36, 0.070, 0.70, (0.90, 0.97, 1.05)),
            lamp(-35, 0.42, 0.085, 0.34, (0.92, 0.98, 1.04)),
        )
        shift = rng.uniform(-0.02, 0.02, 2)
        return cls(
            centre=(float(shift[0]), float(shift[1])),
            scale=float(rng.uniform(0.988, 1.012)),
            angle=float(np.deg2rad(rng.uniform(-3.5, 3.5))),
            lamps=lamps,
            ambient=float(0.205 * rng.uniform(0.93, 1.07)),
            exposure=float(rng.uniform(0.93, 1.07)),
        )


@lru_cache(maxsize=1)
def _profile() -> tuple[Array, Array, Array, Array]:
    """Radius, slope, occlusion and reflectance at the centres of the radial bins."""
    radius = (np.arange(_BINS, dtype=np.float32) + 0.5) * (_BIN_REACH / _BINS)
    slope, occlusion, reflect = (
        np.interp(radius, *np.array(knots).T).astype(np.float32)
        for knots in (_SLOPE_KNOTS, _OCCLUSION_KNOTS, _REFLECT_KNOTS)
    )
    return radius, slope, occlusion, reflect


def _turning_marks(rng: Rng) -> Array:
    """Radial slope left by the tool, (bins, angles): nearly, not wholly, the same along each turn."""
    turns = 56
    fine = rng.standard_normal((_BINS, 1), dtype=np.float32)
    drift = rng.standard_normal((_BINS, turns), dtype=np.float32)
    # Along a turn the marks live on a circle: the last column runs into the first.
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
    """A flange, turned, drilled and engraved, under its lights.

    Args:
        setting: pose and light.
        finish: draws the turning marks and the belt.
        size_px: side of the square image.

    Attributes:
        setting: pose and light.
        x: (1, n) and ``y``: (n, 1) places of the samples, n = SUPERSAMPLING * size_px.
        radius: (n, n) distance from the axis, in part units.
        fields: (10, n, n), see the properties' names in ``FIELDS``.
        coats: what lies on the metal: (window, opacity (h, w), colour (h, w, 3) or (3,)).
    """

    FIELDS = (
        "slope_x",  # derivative of the height
        "slope_y",
        "grain_x",  # unit vector across the turning marks
        "grain_y",
        "across",  # spread of the facets across the marks
        "along",  # and along them
        "reflect",  # reflectance
        "occlusion",  # share of the light that arrives
        "matter",  # 1 where there is metal
        "under",  # the light on what shows where there is none
    )

    def __init__(self, setting: Setting, finish: Rng, size_px: int) -> None:
        count = SUPERSAMPLING * size_px
        axis = (np.arange(count, dtype=np.float32) + 0.5) * np.float32(2 / count) - 1
        self.setting = setting
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
        """The field of that name."""
        if name in Part.FIELDS:
            field: Array = self.fields[Part.FIELDS.index(name)]
            return field
        raise AttributeError(name)

    def place(self, radius: float, angle: float) -> tuple[float, float]:
        """Image coordinates of a point given by part radius and angle (clockwise from the right)."""
        angle += self.setting.angle
        reach = radius * self.setting.scale
        return (
            float(self.setting.centre[0] + reach * np.cos(angle)),
            float(self.setting.centre[1] + reach * np.sin(angle)),
        )

    def window(self, x_low: float, y_low: float, x_high: float, y_high: float) -> Window:
        """The samples between two corners, cut off at the image's edge."""
        return (
            slice(*(int(i) for i in np.searchsorted(self.y[:, 0], (y_low, y_high)))),
            slice(*(int(i) for i in np.searchsorted(self.x[0], (x_low, x_high)))),
        )

    def around(self, centre: tuple[float, float], reach: float) -> tuple[Window, Array, Array]:
        """The window within ``reach`` (image units) of a point, and x, y relative to that point."""
        window = self.window(centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        rows, columns = window
        return window, self.x[:, columns] - np.float32(centre[0]), self.y[rows] - np.float32(centre[1])

    def emboss(self, window: Window, height: Array) -> None:
        """Add a height map to the surface."""
        if min(height.shape) < 2:
            return
        along_y, along_x = np.gradient(height, np.float32(self.pitch))
        self.slope_x[window] += along_x
        self.slope_y[window] += along_y

    def shadow_shift(self, height: float) -> tuple[float, float]:
        """Where the shadow of a point at ``height`` above the ground falls, relative to the point."""
        key = self.setting.lamps[0]
        return -2.3 * key.x * height, -2.3 * key.y * height

    def _turn(self) -> None:
        scale, (centre_x, centre_y) = self.setting.scale, self.setting.centre
        from_x, from_y = self.x - np.float32(centre_x), self.y - np.float32(centre_y)
        squared = from_x * from_x + from_y * from_y
        distance = np.sqrt(squared) + np.float32(1e-6)
        self.radius = radius = distance * np.float32(1 / scale)
        self.grain_x[...] = from_x / distance
        self.grain_y[...] = from_y / distance
        # The scale of the bins leaves the corners of the image inside the table.
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
        # Deep inside the bore only a sickle of belt is lit.
        self.under[radius < OUTER_RADIUS - 0.2] = 0.10
        self._bore(radius)

    def _bore(self, radius: Array) -> None:
        """The wall of the bore, seen because the camera stands above its middle."""
        window, from_x, from_y = self.around(self.setting.centre, 1.05 * BORE_RADIUS * self.setting.scale)
        depth = np.clip((radius[window] - 0.128) / (BORE_RADIUS - 0.128), 0, 1)
        key = self.setting.lamps[0]
        towards = -(from_x * key.x + from_y * key.y) / (BORE_RADIUS * np.hypot(key.x, key.y))
        self.under[window] += step(depth, 0.0, 0.12) * (0.5 + 3.6 * depth**2 * np.clip(towards + 0.1, 0, 1) ** 1.5)

    def drill(self, number: int, through: bool = True) -> None:
        """Sink and drill one hole of the circle.

        Args:
            number: which one.
            through: False leaves the sink without its hole.
        """
        scale = self.setting.scale
        centre = self.place(HOLE_CIRCLE, 2 * np.pi * number / HOLE_COUNT - np.pi / 2)
        window, from_x, from_y = self.around(centre, 1.35 * SINK_RADIUS * scale)
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
        # A flat end mill leaves a rougher floor than the lathe; the wall shades the side next to the light.
        shift_x, shift_y = self.shadow_shift(SINK_DEPTH * scale)
        lit = step(np.hypot(from_x - shift_x, from_y - shift_y) / np.float32(scale), SINK_RADIUS + 0.012, 0.074)
        wall = step(radius, SINK_RADIUS, SINK_RADIUS - 0.022)
        shade = (0.34 + 0.50 * lit) * (0.55 + 0.45 * wall)
        self.occlusion[window] *= 1 - sunk * (1 - shade)
        self.along[window] += sunk * 0.06
        if through:
            self.matter[window] *= np.clip((radius - HOLE_RADIUS) / edge + 0.5, 0, 1)
            key = self.setting.lamps[0]
            towards = -(from_x * key.x + from_y * key.y) / (HOLE_RADIUS * np.hypot(key.x, key.y))
            depth = np.clip((radius - 0.026) / (HOLE_RADIUS - 0.026), 0, 1)
            gleam = depth**2 * np.clip(towards, 0, 1) ** 1.5
            hole = radius < HOLE_RADIUS + edge
            self.under[window][hole] = (0.07 + 1.9 * gleam)[hole]

    def engrave(self, lines: tuple[str, ...], smear: tuple[float, float] = (0.0, 0.0), depth: float = 1.0) -> Array:
        """Engrave text along the face, below the hub.

        Args:
            lines: upper and lower line.
            smear: second pass of the tool, displaced by that many part units.
            depth: factor on the depth.

        Returns:
            The height that was removed, over the window ``engraved()``, <= 0.
        """
        window = self.engraved()
        self._blank.setdefault("code", (window, self.fields[:, *window].copy()))
        rows, columns = window
        from_x = (self.x[:, columns] - np.float32(self.setting.centre[0])) / np.float32(self.setting.scale)
        from_y = (self.y[rows] - np.float32(self.setting.centre[1])) / np.float32(self.setting.scale)
        # Text lies along the circle: across = arc length, down = radius.
        across = -(np.arctan2(from_y, from_x) - np.float32(np.pi / 2 + self.setting.angle)) * HOLE_CIRCLE
        down = np.hypot(from_x, from_y) - np.float32(HOLE_CIRCLE + 0.015)
        height = engraved_height(lines, across, down)
        if smear != (0.0, 0.0):
            height = np.minimum(height, engraved_height(lines, across - smear[0], down - smear[1]))
        height *= np.float32(depth)
        self.emboss(window, height * np.float32(self.setting.scale))
        floor = np.sqrt(np.clip(height / -DEPTH, 0, 1))
        self.occlusion[window] *= 1 - 0.85 * floor
        self.along[window] += 0.10 * floor
        return height

    def engraved(self) -> Window:
        """The window that holds the engraving."""
        centre = self.place(HOLE_CIRCLE + 0.01, np.pi / 2)
        return self.window(centre[0] - 0.29, centre[1] - 0.17, centre[0] + 0.29, centre[1] + 0.17)

    def restore(self, key: object) -> Window:
        """Undo ``drill`` (key ``("hole", number)``) or ``engrave`` (key ``"code"``); returns the window."""
        window, blank = self._blank[key]
        self.fields[:, *window] = blank
        return window
