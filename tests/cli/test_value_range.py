"""The commands name the option for the range of the values, and warn of an unlikely range."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from trained_run import Cli


def dark_images(folder: Path, count: int = 3) -> Path:
    """Images of 12 bits in files of 16."""
    folder.mkdir()
    for index in range(count):
        values = np.random.default_rng(index).integers(500, 4000, (64, 64)).astype(np.uint16)
        Image.fromarray(values).save(folder / f"part{index}.png")
    return folder


def test_predict_warns_once_with_the_option(cli: Cli, closed_form_run: Path, tmp_path: Path) -> None:
    done = cli("predict", closed_form_run, dark_images(tmp_path / "in"))
    assert done.status == 0 and len(done.out.splitlines()) == 3
    [line] = [line for line in done.err.splitlines() if "brightest" in line]
    assert "all 3 images" in line and line.endswith("with values of 12 bits, give --value-range 4095")
    done = cli("predict", closed_form_run, tmp_path / "in", "--value-range", "4095")
    assert done.status == 0 and "brightest" not in done.err
    assert cli("predict", closed_form_run, tmp_path / "in", "--value-range", "auto").status == 0


def test_errors_name_the_option(cli: Cli, closed_form_run: Path, tmp_path: Path) -> None:
    folder = dark_images(tmp_path / "in", 1)
    assert "give the right --value-range" in cli("predict", closed_form_run, folder, "--value-range", 255).err
    for wrong in ("0", "-3", "nan", "inf", "bright"):
        done = cli("predict", closed_form_run, folder, "--value-range", wrong)
        assert done.status == 2 and "--value-range" in done.one_error_line()
    Image.fromarray(np.full((64, 64), 90, np.int32)).save(tmp_path / "a.tif")
    line = cli("predict", closed_form_run, tmp_path / "a.tif").one_error_line()
    assert "does not say which value is white" in line and "give --value-range, such as 255" in line


def test_inspect_tells_the_option_in_json_too(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", "inspect", dark_images(tmp_path / "in"), "--json")
    text = " ".join(json.loads(done.out)["warnings"])
    assert "give --value-range 4095" in text
    done = cli("data", "inspect", tmp_path / "in", "--json", "--value-range", 4095)
    assert "brightest" not in done.out
