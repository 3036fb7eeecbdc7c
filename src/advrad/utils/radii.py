"""Radii of perturbations, as numbers or fractions such as ``2/255``."""

from __future__ import annotations

import math
from typing import Literal, get_args

from advrad.errors import ConfigError

Norm = Literal["linf", "l2"]


def check_perturbations(radius: float, norm: str) -> None:
    """Check that perturbations are described as bounds take them.

    Args:
        radius: Radius, in [0, 1] pixel units.
        norm: Norm.

    Raises:
        ConfigError: The radius is negative or not a number, or the norm is another one.

    Example:
        >>> check_perturbations(2 / 255, "Linf")
        Traceback (most recent call last):
        advrad.errors.ConfigError: norm Linf: must be linf or l2
    """
    if norm not in get_args(Norm):
        raise ConfigError(f"must be {' or '.join(get_args(Norm))}", option="norm", value=norm)
    if not radius >= 0:
        raise ConfigError("must be 0 or more", option="radius", value=radius)


def radius_of(value: str | float, norm: str, option: str) -> float:
    """Read a radius.

    Args:
        value: Number, or a fraction such as ``2/255``.
        norm: Norm of the perturbations, ``linf`` or ``l2``.
        option: Name of the option, for the error message.

    Raises:
        ConfigError: The value is neither a number nor a fraction, or out of range.

    Example:
        >>> radius_of("51/255", "linf", "eps")
        0.2
    """
    try:
        above, _, below = str(value).partition("/")
        radius = float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError):
        radius = math.nan
    if not math.isfinite(radius):
        raise ConfigError("must be a number or a fraction, such as 2/255", option=option, value=value)
    if radius < 0 or (norm == "linf" and radius > 1):
        bound = "between 0 and 1" if norm == "linf" else "0 or more"
        raise ConfigError(f"must be {bound}, for pixel values in [0, 1]", option=option, value=value)
    return radius
