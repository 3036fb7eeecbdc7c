"""Fixtures of the tests of our models in anomalib."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep OpenVINO's cache in the folder of the test."""
    monkeypatch.chdir(tmp_path)
