"""The script that takes the picture of the service's page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import served_page
from needed_programs import needed
from PIL import Image

from advrad.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[2] / "performance" / "screenshots.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance_screenshots", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_picture_that_cannot_be_small_is_refused(script: ModuleType, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(ConfigError, match="larger than 200 kB"):
        script.save(tmp_path / "out.png", (tmp_path / "noise.png").read_bytes())
    assert not (tmp_path / "out.png").exists()


def test_missing_images_are_named(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no test images of the kind rust"):
        script.chosen(tmp_path)


@pytest.mark.slow
def test_the_page_is_pictured(
    script: ModuleType, tmp_path: Path, widgets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chromium = needed("chromium")
    run = served_page.write_model(widgets, tmp_path / "run")
    (run / "flange").symlink_to(widgets)
    monkeypatch.setattr(script, "SHOWN", (("dent", 0), ("good", 1)))
    found = script.main([str(run), "-o", str(tmp_path / "page.png"), "--chromium", chromium])
    assert found["images"] == 2
    assert found["bytes"] == (tmp_path / "page.png").stat().st_size < 200_000
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (script.WIDTH_PX, script.HEIGHT_PX)
