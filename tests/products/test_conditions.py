"""Normal images of different folders that were not taken under the same conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from advrad.data.layouts import find_records
from advrad.data.options import DataOptions
from advrad.products.conditions import warn_of_drift


def write(folder: Path, count: int, brightness: float, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        values = brightness + generator.normal(0, 1) + generator.normal(0, 8, (24, 24, 3))
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")


def warnings(root: Path) -> list[str]:
    return warn_of_drift(find_records(root, DataOptions(layout="mvtec")), DataOptions())


def test_equal_conditions_give_no_warning(tmp_path: Path) -> None:
    for place, name in enumerate(("train/good/monday", "train/good/tuesday", "test/good")):
        write(tmp_path / name, 12, 120, place)
    assert warnings(tmp_path) == []


def test_a_darker_day_and_brighter_test_images_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train/good/monday", 24, 120, 0)
    write(tmp_path / "train/good/tuesday", 24, 120, 1)
    write(tmp_path / "train/good/wednesday", 12, 90, 2)
    write(tmp_path / "test/good", 8, 140, 3)
    day, test = warnings(tmp_path)
    assert day.startswith("The normal images in train/good/wednesday differ from those of the other folders in ")
    assert "brightness (AUROC 1.000, they are darker)" in day
    assert test.startswith("Brightness alone separates normal training images from normal test images")


def test_a_folder_of_few_images_is_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "train/good/monday", 20, 120, 0)
    write(tmp_path / "train/good/tuesday", 9, 60, 1)
    assert warnings(tmp_path) == []
