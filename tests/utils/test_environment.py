"""Versions that are stored beside a result."""

from __future__ import annotations

import platform

import torch

import advrad
from advrad.utils.environment import versions


def test_versions_are_those_of_this_process() -> None:
    assert versions() == {
        "advrad": advrad.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
