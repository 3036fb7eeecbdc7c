"""anomalib, both ways: its models under our audit, and our detector as one of its models.

Importing the package is quick: anomalib itself is loaded on first use.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

__all__ = ["AdvRad"]

# Said whenever anomalib is loaded, about its own code and timm's; nobody who only uses it can do anything about it.
for _message in ("Importing from timm.models.layers", "The anomalib.models.components.dinov2 package"):
    warnings.filterwarnings("ignore", message=_message, category=FutureWarning)

if TYPE_CHECKING:
    from advrad.integrations.anomalib.module import AdvRad
else:
    # Hidden from type checkers, which would otherwise believe that every name exists.
    _LAZY = {"AdvRad": "advrad.integrations.anomalib.module"}

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module 'advrad.integrations.anomalib' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
