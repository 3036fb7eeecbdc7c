"""A saved detector and test images to certify it on."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_datasets import make_mvtec
from toy_models import TWO_VIEWS, detector


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_mvtec(tmp_path, good=4, defects={"scratch": 3, "dent": 2})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    detector(TWO_VIEWS).save_pretrained(folder)
    return folder
