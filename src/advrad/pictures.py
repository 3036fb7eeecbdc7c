"""Deprecated names of :mod:`advrad.data.images`, kept for programs that were written for advrad 0.1."""

from __future__ import annotations

import warnings
from typing import Any

from advrad.data import images

_NEW_NAMES = {"read_picture": "read_image", "read_mask": "read_mask"}


def __getattr__(name: str) -> Any:
    if name not in _NEW_NAMES:
        raise AttributeError(f"module 'advrad.pictures' has no attribute {name!r}; see advrad.data.images")
    new = _NEW_NAMES[name]
    warnings.warn(f"advrad.pictures.{name} is now advrad.data.images.{new}", DeprecationWarning, stacklevel=2)
    return getattr(images, new)
