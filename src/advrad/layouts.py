"""Deprecated names of :mod:`advrad.data.layouts`, kept for programs that were written for advrad 0.1."""

from __future__ import annotations

import warnings
from typing import Any

_NEW_PLACES = {
    "Dataset": "advrad.data.layouts.Dataset",
    "LAYOUTS": "advrad.data.layouts.LAYOUTS",
    "Layout": "advrad.data.layouts.Layout",
    "PICTURE_SUFFIXES": "advrad.data.folder_names.IMAGE_SUFFIXES",
    "Record": "advrad.data.records.Record",
    "find_records": "advrad.data.layouts.find_records",
}


def __getattr__(name: str) -> Any:
    if name not in _NEW_PLACES:
        raise AttributeError(f"module 'advrad.layouts' has no attribute {name!r}; see advrad.data.layouts")
    from importlib import import_module

    module, _, new = _NEW_PLACES[name].rpartition(".")
    warnings.warn(f"advrad.layouts.{name} is now {_NEW_PLACES[name]}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(module), new)
