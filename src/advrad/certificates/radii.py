"""Radii of perturbations: their norms, how they are read and written, and the defaults."""

from __future__ import annotations

import math
from typing import Literal

from advrad.errors import ConfigError

Norm = Literal["linf", "l2"]

#: Radii that are certified by default, for pixel values in [0, 1].
DEFAULT_RADII: dict[Norm, tuple[float, ...]] = {"linf": (1 / 255, 2 / 255, 4 / 255), "l2": (0.1, 0.2, 0.5)}


def parse_radii(text: str, norm: Norm = "l2") -> tuple[float, ...]:
    """Read radii from text such as ``0.1,0.2`` or ``1/255,2/255``.

    Args:
        text: Numbers or fractions, separated by commas.
        norm: Norm of the perturbations.

    Returns:
        The radii in the given order, each once.

    Raises:
        ConfigError: A radius is not a number, below 0, or above 1 in linf; or there is none.

    Example:
        >>> parse_radii("0.2, 1/10,0.2")
        (0.2, 0.1)
    """
    found = []
    for word in text.split(","):
        above, _, below = word.partition("/")
        try:
            radius = float(above) / float(below) if below else float(above)
        except (ValueError, ZeroDivisionError):
            raise ConfigError(
                f"'{word}' is not a number; give numbers, such as 0.1,0.2 or 1/255,2/255", option="radii", value=text
            ) from None
        check_radius(radius)
        if norm == "linf" and radius > 1:
            raise ConfigError("must be at most 1 in linf, for pixel values in [0, 1]", option="radius", value=word)
        found.append(radius)
    return tuple(dict.fromkeys(found))


def check_radius(radius: float) -> None:
    """Check that a radius is a finite number >= 0.

    Raises:
        ConfigError: It is not.
    """
    if not 0 <= radius < math.inf:
        raise ConfigError("must be 0 or more", option="radius", value=radius)
