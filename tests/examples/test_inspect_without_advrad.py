"""The program that inspects images with an export, where advrad and PyTorch are missing, says what advrad says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_exports
from PIL import Image

import advrad
from advrad.inference.prediction import PredictionRecord, predict_paths

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "inspect_without_advrad.py"

#: Runs the program after every import of advrad or PyTorch has been made to fail.
WITHOUT = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("advrad", "torch"):
            raise ModuleNotFoundError(f"{name} is missing here")

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"advrad", "torch"} & set(sys.modules)
"""


@pytest.fixture(scope="module", params=[True, False], ids=["openvino", "onnxruntime"])
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_exports.write(tmp_path_factory.mktemp("export") / "export", openvino=request.param)


def run(
    *arguments: object, python: Sequence[str | Path] = (sys.executable, "-c", WITHOUT)
) -> subprocess.CompletedProcess[str]:
    command = [*map(str, python), str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def inspected(*arguments: object, **options: Any) -> list[dict[str, Any]]:
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_as_advrad(lines: list[dict[str, Any]], export: Path, images: Sequence[Path]) -> None:
    expected = list(predict_paths(advrad.load_detector(export), images))
    assert len(lines) == len(expected) == len(images)
    for line, record in zip(lines, expected, strict=True):
        assert isinstance(record, PredictionRecord)
        assert line["path"] == str(record.path)
        assert line["score"] == pytest.approx(record.score, rel=1e-6)
        assert line["verdict"] == record.verdict


def images_of_all_kinds(folder: Path) -> list[Path]:
    """Images of 8 bits of every kind; the brightest part lies at the top left of the image that is shown."""
    values = np.random.default_rng(0).integers(0, 120, (40, 64, 3), dtype=np.uint8)
    values[4:16, 6:24] = 250
    image = Image.fromarray(values)
    clear = image.copy()
    clear.putalpha(Image.fromarray(np.linspace(0, 255, 40 * 64).reshape(40, 64).astype(np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn to the right
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colour.png": (image, {}),
        "grey.png": (image.convert("L"), {}),
        "white-black.png": (image.convert("1"), {}),
        "palette.png": (image.quantize(16), {}),
        "clear.png": (clear, {}),
        "clear-grey.png": (clear.convert("LA"), {}),
        "clear-palette.png": (image.quantize(16), {"transparency": 3}),
        "bright.bmp": (image.point(lambda value: 255 - value // 2), {}),
        "turned.jpg": (image.transpose(Image.Transpose.ROTATE_90), {"exif": turned, "quality": 95}),
        "turned.png": (image.transpose(Image.Transpose.ROTATE_90), {"exif": turned}),
    }
    for name, (picture, options) in kinds.items():
        picture.save(folder / name, **options)
    return [folder / name for name in kinds]


def test_scores_and_verdicts_are_those_of_advrad_and_heat_maps_show_the_place(export: Path, tmp_path: Path) -> None:
    images = images_of_all_kinds(tmp_path)
    lines = inspected(export, *images, "--output", tmp_path / "heat")
    assert_as_advrad(lines, export, images)
    assert {line["verdict"] for line in lines} == {"good", "defective"}
    heat_maps = sorted((tmp_path / "heat").iterdir())
    assert [path.name[5:-4] for path in heat_maps] == [path.stem for path in images]
    for path, heat_map in zip(images, heat_maps, strict=True):
        if path.stem in ("colour", "turned"):
            red = np.asarray(Image.open(heat_map)).astype(int) @ (1, 0, -1)
            assert red.shape == (40, 64), "turned as it is shown"
            assert red[6:14, 8:22].min() > 50 > np.abs(red[20:, 30:] - red[20:, 30:].mean()).max() / 3


def test_the_padding_of_the_working_image_does_not_move_the_heat_map(tmp_path: Path) -> None:
    framing = toy_exports.FramingRecord(height_px=32, width_px=32, pad=True)
    export = toy_exports.write(tmp_path / "export", framing_record=framing)
    values = np.zeros((32, 64, 3), np.uint8)
    # The map of this toy is stretched, so what it shows in the middle half is what lies below the image.
    values[8:24] = 255
    Image.fromarray(values).save(tmp_path / "wide.png")
    inspected(export, tmp_path / "wide.png", "--output", tmp_path / "heat")
    heat = np.asarray(Image.open(tmp_path / "heat" / "0000-wide.png")).astype(int)
    assert (heat[1:-1] @ (1, 0, -1) > 50).all(), "the middle of the map fills the image"


@pytest.mark.parametrize("name", ["detector.json", "model.xml", "model.bin", "README.md"])
def test_a_changed_byte_is_refused(name: str, tmp_path: Path) -> None:
    export = toy_exports.write(tmp_path / "export", openvino=True)
    path = export / name
    content = path.read_bytes()
    at = content.index(b"0.55") if name == "detector.json" else len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    done = run(export, "a.png")
    assert done.returncode == 1 and "changed" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((40, 40), np.uint16), "not of 8 bits"),
        (None, "cannot identify image file"),
    ],
    ids=["16-bit", "text"],
)
def test_an_image_that_it_cannot_read_is_named(image: np.ndarray | None, words: str, tmp_path: Path) -> None:
    export = toy_exports.write(tmp_path / "export")
    path = tmp_path / "a.png"
    if image is None:
        path.write_text("text")
    else:
        Image.fromarray(image).save(path)
    done = run(export, path)
    assert done.returncode == 1 and words in done.stderr and str(path) in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_colour_of_16_bits_is_refused_although_pillow_reads_8_of_them(tmp_path: Path) -> None:
    from advrad.data.png import write_image

    export = toy_exports.write(tmp_path / "export")
    write_image(tmp_path / "deep.png", np.full((40, 40, 3), 0.3), bits=16)
    done = run(export, tmp_path / "deep.png")
    assert done.returncode == 1 and "not of 8 bits" in done.stderr


def test_it_runs_where_only_its_three_packages_are_installed(export: Path, tmp_path: Path) -> None:
    runtime = "openvino" if (export / "model.xml").exists() else "onnxruntime"
    python = environment(tmp_path / "environment", (runtime, "numpy", "pillow"))
    for package in ("torch", "advrad"):
        missing = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True)
        assert f"No module named '{package}'" in missing.stderr
    images = images_of_all_kinds(tmp_path)[:3]
    assert_as_advrad(inspected(export, *images, python=[python]), export, images)


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Make an environment that holds some packages of this one, with what they need; return its Python."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    place = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    wanted, done = list(packages), set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another system, or a part that is not installed
        wanted += [match[0] for line in found.requires or [] if "extra ==" not in line and (match := NAME.match(line))]
        for part in {file.parts[0] for file in found.files or [] if not file.parts[0].startswith((".", "_"))}:
            source = Path(str(found.locate_file(part)))
            if source.exists() and not (place / part).exists():
                (place / part).symlink_to(source)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


NAME = re.compile(r"[\w.-]+")
