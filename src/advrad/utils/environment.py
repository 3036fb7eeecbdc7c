"""Versions of the software that made a result."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Versions of advrad, PyTorch and Python, by name.

    Example:
        >>> sorted(versions())
        ['advrad', 'python', 'torch']
    """
    import torch

    return {"advrad": version("advrad"), "torch": torch.__version__, "python": platform.python_version()}
