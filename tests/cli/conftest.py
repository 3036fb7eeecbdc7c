"""Fixtures of the tests of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(widget_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(widget_run, folder)
    return folder
