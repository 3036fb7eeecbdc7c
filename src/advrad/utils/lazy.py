"""Package faces that load their modules on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def attach(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package whose public names are defined in its modules.

    Args:
        package: Name of the package, its ``__name__``.
        names: Public names, each with the full name of the module that defines it.

    Returns:
        ``__getattr__`` and ``__dir__``, to be assigned in the package's ``__init__``.

    Example:
        >>> getattr_, dir_ = attach("advrad.utils", {"versions": "advrad.utils.environment"})
        >>> dir_()
        ['versions']
    """

    def __getattr__(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(names[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(names)

    return __getattr__, __dir__
