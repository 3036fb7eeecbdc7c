"""Values as text, for tables, reports and model cards."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path


def number(value: float | None, form: str = ".4f", missing: str = "not measured") -> str:
    """Format a number.

    Args:
        value: Number, or None if it was not measured.
        form: Format specification of Python.
        missing: Text for None.

    Example:
        >>> number(0.98765), number(None)
        ('0.9877', 'not measured')
    """
    return missing if value is None else format(value, form)


def percent(value: float | None, missing: str = "not measured") -> str:
    """Format a share as a percentage with three digits.

    Args:
        value: Share, in [0, 1], or None if it was not measured.
        missing: Text for None.

    Example:
        >>> percent(0.05), percent(None)
        ('5 %', 'not measured')
    """
    return missing if value is None else f"{100 * value:.3g} %"


def radius_text(radius: float, norm: str) -> str:
    """Write a radius, in linf as a fraction of 255 where it is a number of quarters of a level.

    Args:
        radius: Radius, in [0, 1] pixel units.
        norm: Norm of the perturbation, ``linf`` or ``l2``.

    Example:
        >>> radius_text(2 / 255, "linf"), radius_text(0.25, "l2"), radius_text(0.03, "linf")
        ('2/255', '0.25', '0.03')
    """
    levels = round(4 * 255 * radius) / 4
    if norm == "linf" and radius > 0 and math.isclose(255 * radius, levels, rel_tol=1e-6):
        return f"{levels:g}/255"
    return f"{radius:g}"


def reach_text(radius: float, norm: str) -> str:
    """Write the radius up to which something is proven: rounded down, so that what is written is proven.

    Args:
        radius: Radius, in [0, 1] pixel units.
        norm: Norm of the perturbation, ``linf`` or ``l2``.

    Example:
        >>> reach_text(2 / 255, "linf"), reach_text(3.1498 / 255, "linf"), reach_text(0.25, "l2")
        ('2/255', '3.14/255', '0.25')
    """
    units, digits, unit = (255, 2, "/255") if norm == "linf" else (1, 4, "")
    return f"{math.floor(radius * units * 10**digits + 1e-6) / 10**digits:g}{unit}"


def flat(values: Mapping[str, object], between: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested options to dotted names and readable values.

    Args:
        values: Plain JSON values by name.
        between: Separator of the items of a list.
        prefix: Text in front of every name.

    Yields:
        Pairs of a dotted name and a value as text.

    Example:
        >>> list(flat({"score": {"views": [256, 128], "tiled": True}}, ", "))
        [('score.views', '256, 128'), ('score.tiled', 'yes')]
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, between, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", between.join(text(part) for part in value) or "none"
        else:
            yield f"{prefix}{key}", text(value)


def text(value: object) -> str:
    """Format a plain JSON value on one line.

    Args:
        value: Plain JSON value.

    Example:
        >>> text([1, 0.25, None, True])
        '1, 0.25, none, yes'
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def quoted(path: Path | str) -> str:
    """Quote a path for a shell command.

    Args:
        path: Path, or URL.

    Example:
        >>> quoted(Path("my images"))
        "'my images'"
    """
    return shlex.quote(str(path))


def clock(seconds: float) -> str:
    """Format a duration as minutes and seconds, with hours if there are any.

    Args:
        seconds: The duration; a negative one counts as 0.

    Example:
        >>> clock(61), clock(3661)
        ('1:01', '1:01:01')
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
