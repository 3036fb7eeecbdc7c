"""Versions of the software that a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch


def versions() -> dict[str, str]:
    """Versions of advrad, PyTorch and Python, by name."""
    return {"advrad": version("advrad"), "torch": torch.__version__, "python": platform.python_version()}
