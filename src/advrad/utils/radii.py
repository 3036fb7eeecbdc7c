"""Radii of perturbations, as numbers or fractions such as ``2/255``."""

from __future__ import annotations

import math
from typing import Literal

from advrad.errors import ConfigError

Norm = Literal["linf", "l2"]


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
