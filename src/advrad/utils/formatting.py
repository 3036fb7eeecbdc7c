"""Values as text, for tables, pages and model cards."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path


def number(value: float | None, form: str = ".4f", missing: str = "not measured") -> str:
    """A figure in a format of Python's, or the words for one that was not measured."""
    return missing if value is None else format(value, form)


def percent(value: float | None, missing: str = "not measured") -> str:
    """A share as a percentage of three digits, or the words for one that was not measured."""
    return missing if value is None else f"{100 * value:.3g} %"


def flat(values: Mapping[str, object], between: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options as dotted names and readable values.

    Args:
        values: plain JSON values.
        between: stands between the parts of a list.
        prefix: of every name.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, between, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", between.join(text(part) for part in value) or "none"
        else:
            yield f"{prefix}{key}", text(value)


def text(value: object) -> str:
    """A plain JSON value on one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def quoted(path: Path) -> str:
    """The path as a shell takes it."""
    return shlex.quote(str(path))
