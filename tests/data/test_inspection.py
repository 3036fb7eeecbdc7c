"""The inspection of a data set says what it holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_datasets
from PIL import Image, ImageOps
from toy_parts import write_parts

from advrad.data import splits
from advrad.data.inspection import SizeRange, inspect_dataset
from advrad.data.layouts import find_records
from advrad.data.options import DataOptions
from advrad.errors import DataError, UserError
from advrad.training.normal_images import NormalImages
from advrad.utils.progress import CallbackReporter


def test_inspect(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path, train=50, good=3, defects={"scratch": 4, "dent": 1})
    (base / "ground_truth" / "scratch" / "000_mask.png").unlink()
    Image.new("L", (32, 32)).save(base / "ground_truth" / "scratch" / "001_mask.png")
    Image.new("L", (30, 20)).save(base / "ground_truth" / "scratch" / "002_mask.png")
    (base / "train" / "good" / "049.png").write_bytes(b"")
    shutil.copy(base / "train" / "good" / "000.png", base / "test" / "good" / "000.png")
    Image.new("L", (64, 32)).save(base / "train" / "good" / "048.png")
    seen: list[int] = []
    reporter = CallbackReporter(lambda done, total: seen.append(done))
    result = inspect_dataset(base, progress=reporter)
    got = result.to_dict()
    assert seen == list(range(1, 59))
    assert json.loads(json.dumps(got)) == got
    assert (got["layout"], got["category"], got["root"]) == ("mvtec", "widget", str(base))
    assert got["counts"] == {"train": {"good": 50}, "test": {"dent": 1, "good": 3, "scratch": 4}}
    assert got["masks"] == {"usable": 2, "empty": 1, "missing": 1, "broken": 1}
    assert got["width_px"] == {"min": 32, "median": 32, "max": 64}
    assert got["height_px"] == {"min": 32, "median": 32, "max": 32}
    assert got["kinds"] == {"8-bit colour": 56, "8-bit grey": 1}
    assert [Path(entry["path"]).name for entry in got["broken"]] == ["049.png", "002_mask.png"]
    assert got["closed_form"] == {"memory": 49, "choice": 30, "threshold": 19}
    assert got["features"] == {"memory": 49, "choice": 10, "threshold": 39}
    assert got["split"] == {"train": 25, "selection": 5, "calibration": 19}
    assert got["false_alarm_rate"] == 0.05
    assert got["normals_needed"] == {"closed_form": 19, "features": 39, "learned": 42}
    assert got["lowest_false_alarm_rate"] == {"closed_form": 0.02, "features": 0.04, "learned": 0.05}
    assert any(
        "in both train and test: 1 of 8 test images (test/good/000.png has the pixels of train/good/000.png)" in text
        for text in got["warnings"]
    )
    assert any("mark nothing: 1 of 3 (test/scratch/001.png)" in note for note in got["notes"])
    assert any("32 x 32 to 64 x 32 px: they keep their aspect ratio and are padded" in note for note in got["notes"])
    assert result.width_px == SizeRange(32, 32, 64) and result.broken[0].path.name == "049.png"
    assert inspect_dataset(find_records(base), DataOptions(category="ignored")).to_dict() == got


def test_of_very_many_images_the_closed_form_uses_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MOST_IMAGES", 20)
    got = inspect_dataset(toy_datasets.make_folder(tmp_path, 45))
    # Twice as many as the false-alarm rate needs are always used.
    assert got.closed_form == splits.split_for_memory(38)
    assert "the closed form uses 38 of the normal images, drawn at random; more are not needed" in got.notes


def test_inspect_of_too_few(tmp_path: Path) -> None:
    got = inspect_dataset(toy_datasets.make_folder(tmp_path, 3))
    assert got.split is None and got.closed_form is None and got.rates == {"closed_form": 0.25, "features": 0.5}
    assert "at least 8 are needed" in got.notes[0]
    Path(shutil.copy(tmp_path / "part000.png", tmp_path / "copy.png"))
    got = inspect_dataset(tmp_path)
    assert got.rates == {"closed_form": 0.25, "features": 0.5}
    pair = "part000.png has the pixels of copy.png"
    assert any(f"copies of others: 1 of 4 ({pair})" in text for text in got.warnings)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 4 images can be read; the first is .*copy\.png: is empty"):
        inspect_dataset(tmp_path)


def test_inspect_doubts_the_range_of_the_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for index in range(6):
        Image.fromarray(rng.integers(100, 900, (24, 30)).astype(np.uint16)).save(tmp_path / f"{index}.png")
    [text] = [text for text in inspect_dataset(tmp_path).warnings if "brightest" in text]
    assert "of 65535, so they are read nearly black; with values of 10 bits, give value_range 1023" in text
    assert not any("brightest" in text for text in inspect_dataset(tmp_path, DataOptions(value_range=1023)).warnings)
    for path in tmp_path.iterdir():
        Image.new("L", (24, 30), 7).save(path)
    assert any("one single value; check lens cap" in text for text in inspect_dataset(tmp_path).warnings)
    for path in tmp_path.iterdir():
        Image.fromarray(rng.integers(0, 255, (24, 30)).astype(np.int32)).save(path, "TIFF")
    with pytest.raises(DataError, match="does not say which value is white"):
        inspect_dataset(tmp_path)


@pytest.mark.parametrize(
    ("normals", "copied", "learned", "refused"),
    [
        (16, False, False, True),
        (19, True, False, True),
        (20, True, False, False),
        (30, False, True, True),
        (42, True, True, True),
        (43, True, True, False),
        (5, False, True, True),
    ],
)
def test_inspect_foretells_train(normals: int, copied: bool, learned: bool, refused: bool, tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", normals)
    if copied:
        first, second = sorted((data / "train" / "good").iterdir())[:2]
        Image.open(first).save(second.with_suffix(".bmp"))
        second.unlink()
    texts = [*inspect_dataset(data).notes, *inspect_dataset(data).warnings]
    start = "train with minutes or steps will refuse: " if learned else "advrad train will refuse: "
    foretold = [text.removeprefix(start) for text in texts if text.startswith(start)]
    source = NormalImages(find_records(data), DataOptions(), 0.05, learned=learned)
    assert bool(foretold) == refused
    if refused:
        with pytest.raises(UserError) as caught:
            source.read(find_records(data).records, 256)
        message = getattr(caught.value, "message", str(caught.value))
        assert foretold[0].endswith(message) and ("1 is a copy of another" in message) == copied
    else:
        source.read(find_records(data).records, 256)


def test_inspect_doubts_copies_and_masks(tmp_path: Path) -> None:
    data = write_parts(tmp_path, 20, spots=4)
    assert not [text for text in inspect_dataset(data).warnings if "copies" in text or "mask" in text]
    for number in (0, 1):
        image = Image.open(data / "train" / "good" / f"00{number}.png")
        image.save(data / "test" / "good" / f"again{number}.jpg", quality=92)
    shutil.copy(data / "test" / "spot" / "000.png", data / "test" / "good" / "spot.png")
    for path in (data / "ground_truth" / "spot").iterdir():
        ImageOps.invert(Image.open(path)).save(path)
    warnings = inspect_dataset(data).warnings
    assert any("both train and test: 2 of 10" in text and "again0.jpg looks like" in text for text in warnings)
    assert any("normal and anomalous test images at once: 1" in text for text in warnings)
    assert any("masks" in text and "the wrong way round: 4 of 4" in text for text in warnings)


def test_inspect_warns_of_one_piece_again_and_again(tmp_path: Path) -> None:
    data = write_parts(tmp_path, 20)
    assert not [text for text in inspect_dataset(data).warnings if "hardly differ" in text]
    draws, first = np.random.default_rng(0), np.asarray(Image.open(data / "train" / "good" / "000.png"))
    for path in (data / "train" / "good").iterdir():
        noisy = first.astype(int) + draws.integers(0, 2, first.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    assert any("hardly differ from each other" in text for text in inspect_dataset(data).warnings)
