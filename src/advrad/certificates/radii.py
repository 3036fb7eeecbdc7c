"""Radii that are certified: how lists of them are read, and the defaults."""

from __future__ import annotations

from advrad.errors import ConfigError
from advrad.utils.radii import Norm, radius_of

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
        ConfigError: There is none, or one is not a number, below 0, or above 1 in linf.

    Example:
        >>> parse_radii("0.2, 1/10,0.2")
        (0.2, 0.1)
    """
    if not text.strip():
        raise ConfigError("holds no radius; give some, such as 1/255,2/255", option="radius")
    return tuple(dict.fromkeys(radius_of(word.strip(), norm, "radius") for word in text.split(",")))
