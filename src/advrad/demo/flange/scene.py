"""Pose of the part and the light on it, which differ between two photographs of normal parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from advrad.demo.flange.fields import Rng


class Lamp(NamedTuple):
    """One area light.

    Attributes:
        x: Horizontal component of the surface normal that mirrors the lamp into the camera.
        y: Vertical component of that normal.
        size: Apparent size, in the units of x and y.
        strength: Brightness.
        colour: Red, green and blue factors.
    """

    x: float
    y: float
    size: float
    strength: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Pose and lighting of one photograph.

    Attributes:
        centre: Centre of the part, x and y.
        scale: Half image sides per part unit.
        angle: Rotation of the part in radians, clockwise.
        lamps: Lights; the first one casts the shadows.
        ambient: Brightness of the light from all other directions.
        exposure: Factor on all light.
    """

    centre: tuple[float, float]
    scale: float
    angle: float
    lamps: tuple[Lamp, ...]
    ambient: float
    exposure: float

    @classmethod
    def draw(cls, rng: Rng) -> Scene:
        """Draw a scene within the tolerances of a real inspection station."""
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
