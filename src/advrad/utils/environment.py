"""Versions of the software that made a result."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of advrad, PyTorch and Python, by name.

    Example:
        >>> sorted(versions())
        ['advrad', 'python', 'torch']
    """
    import torch

    return {"advrad": version("advrad"), "torch": torch.__version__, "python": platform.python_version()}


@cache
def code_digest() -> str:
    """Digest of advrad's source code, 12 hexadecimal digits; it tells results of different code apart.

    Example:
        >>> len(code_digest())
        12
    """
    total = hashlib.sha256()
    home = Path(__file__).parents[1]
    for path in sorted(home.rglob("*.py")):
        total.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]
