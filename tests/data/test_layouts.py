"""Folder layouts are recognised, or refused with a clear error."""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import toy_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.data.folder_layouts import held_out
from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions
from advrad.errors import ConfigError, DataError


def _counts(dataset: Dataset) -> dict[tuple[str, str], int]:
    return dict(Counter((record.split, record.defect) for record in dataset.records))


def _message(data: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        find_records(data, DataOptions.parse(options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mvtec(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path, defects={"scratch": 3, "dent": 2})
    found = find_records(base)
    assert (found.root, found.layout, found.category, found.notes) == (base, "mvtec", "widget", ())
    assert _counts(found) == {
        ("train", "good"): 12,
        ("test", "good"): 4,
        ("test", "scratch"): 3,
        ("test", "dent"): 2,
    }
    for record in found.records:
        assert record.label == (record.defect != "good")
        assert (record.mask is not None) == (record.label == 1)
        if record.mask:
            assert record.mask.name == record.path.stem + "_mask.png"
            assert record.mask.parent.name == record.defect
    assert [record.split for record in found.records] == ["train"] * 12 + ["test"] * 9
    for alias in ({"layout": "mvtec"}, {"category": "widget"}):
        assert find_records(base, DataOptions.parse(alias)) == found
    assert find_records(tmp_path, DataOptions(category="widget")).records == found.records
    assert find_records(tmp_path).records == found.records


def test_several_categories_must_be_named(tmp_path: Path) -> None:
    toy_datasets.make_mvtec(tmp_path, "screw")
    toy_datasets.make_mvtec(tmp_path, "bottle")
    message = _message(tmp_path)
    assert "bottle, screw" in message
    assert "as the category" in message
    assert str(tmp_path / "bottle") in message
    assert find_records(tmp_path, DataOptions(category="screw")).category == "screw"
    assert "no category 'nut'; it holds: bottle, screw" in _message(tmp_path, category="nut")


def test_notes_of_missing_masks_and_other_files(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path)
    (base / "ground_truth" / "scratch" / "001_mask.png").unlink()
    for name in ("readme.txt", "b.txt", "noending", ".hidden.png", "Thumbs.db", ".DS_Store"):
        (base / "train" / "good" / name).write_text("x")
    found = find_records(base)
    assert [record.path.stem for record in found.records if record.label and not record.mask] == ["001"]
    assert found.notes == (
        "files that are not images were ignored: 2 .txt, 1 noending",
        "anomalous images without a mask: 1 (scratch 1)",
    )
    shutil.rmtree(base / "ground_truth")
    assert "without a mask: 3" in find_records(base).notes[-1]
    shutil.rmtree(base / "test")
    assert _counts(find_records(base)) == {("train", "good"): 12}


def test_btad(tmp_path: Path) -> None:
    toy_datasets.make_btad(tmp_path, "01")
    toy_datasets.make_btad(tmp_path, "02")
    found = find_records(tmp_path, DataOptions(category="01"))
    assert (found.layout, found.category) == ("btad", "01")
    assert _counts(found) == {("train", "good"): 12, ("test", "good"): 4, ("test", "ko"): 3}
    assert all(record.mask and record.mask.suffix == ".png" for record in found.records if record.label)
    assert "01, 02" in _message(tmp_path)
    assert "train/good is missing" in _message(tmp_path / "01", layout="mvtec")


def test_visa(tmp_path: Path) -> None:
    root = toy_datasets.make_visa(tmp_path, ("candle", "pcb1"))
    found = find_records(root, DataOptions(category="pcb1"))
    assert (found.root, found.layout, found.category, found.notes) == (root, "visa", "pcb1", ())
    assert _counts(found) == {("train", "good"): 12, ("test", "good"): 4, ("test", "anomaly"): 3}
    assert all("pcb1" in record.path.parts and record.path.is_file() for record in found.records)
    assert all(record.mask and record.mask.is_file() for record in found.records if record.label)
    below = find_records(root / "pcb1")
    assert [r.path.name for r in below.records] == [r.path.name for r in found.records]
    assert "candle, pcb1" in _message(root)
    assert "no category 'nut'" in _message(root, category="nut")
    (root / "pcb1" / "Data" / "Masks" / "Anomaly" / "000.png").unlink()
    assert find_records(root, DataOptions(category="pcb1")).notes == ("anomalous images without a mask: 1 (anomaly 1)",)


def test_a_damaged_visa_table(tmp_path: Path) -> None:
    root = toy_datasets.make_visa(tmp_path)
    table = root / "split_csv" / "1cls.csv"
    rows = list(csv.reader(table.read_text().splitlines()))

    def rewrite(lines: list[list[str]]) -> None:
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(lines)

    rewrite([row[:4] for row in rows])
    assert "needs the columns" in _message(root)
    rewrite([rows[0]])
    assert "needs the columns" in _message(root)
    rewrite([*rows, ["candle", "train", "anomaly", "x.JPG", ""]])
    assert "line 21" in _message(root)
    table.write_bytes(b"\xff\xfe\x00\xd8")
    assert "cannot be read as a table" in _message(root)
    table.unlink()
    assert "split_csv/1cls.csv is missing" in _message(root, layout="visa")


def test_a_folder_of_normal_images_only(tmp_path: Path) -> None:
    found = find_records(toy_datasets.make_folder(tmp_path / "nuts"))
    assert (found.layout, found.category, found.notes) == ("folder", "nuts", ())
    assert _counts(found) == {("train", "good"): 20}
    (tmp_path / "nuts" / "other").mkdir()
    assert "these folders are not used: other" in find_records(tmp_path / "nuts").notes[0]


@pytest.mark.parametrize("name", ["good", "OK", "normal"])
def test_normal_images_beside_folders_of_defects(tmp_path: Path, name: str) -> None:
    root = toy_datasets.make_folder(tmp_path, 30, {"rust": 3, "crack": 2}, masks=True)
    (root / "good").rename(root / name)
    toy_datasets.write_good(root / "loose.png")
    found = find_records(root)
    counts = _counts(found)
    assert counts["test", "rust"] == 3
    assert counts["test", "crack"] == 2
    held = counts["test", "good"]
    assert counts["train", "good"] + held == 30
    assert 2 <= held <= 12
    assert all(record.mask and record.mask.is_file() for record in found.records if record.label)
    assert found.notes == (
        f"images beside the folder {name}/ are not used: 1",
        f"{held} of 30 normal images are kept for testing, chosen by their names",
    )


def test_masks_of_a_plain_folder_are_optional(tmp_path: Path) -> None:
    root = toy_datasets.make_folder(tmp_path, 10, {"rust": 1})
    toy_datasets.write_defect(root / "rust" / "1.png", None)
    toy_datasets.write_defect(root / "rust" / "10.png", root / "ground_truth" / "rust" / "10_mask.png")
    masks = {record.path.name: record.mask for record in find_records(root).records if record.label}
    assert masks["1.png"] is None
    assert masks["10.png"] is not None
    assert "without a mask: 2 (rust 2)" in find_records(root).notes[-1]


def test_held_out_images_stay_the_same(tmp_path: Path) -> None:
    root = toy_datasets.make_folder(tmp_path / "a", 40, {"rust": 1})

    def held(base: Path) -> set[str]:
        return {r.path.name for r in find_records(base).records if r.split == "test" and not r.label}

    before = held(root)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert held(tmp_path / "elsewhere") == before
    for i in range(40, 45):
        toy_datasets.write_good(root / "good" / f"part{i:03}.png")
    after = held(root)
    assert (len(before), len(after)) == (8, 9)
    # Each new image replaces at most one, and one more is kept.
    assert len(before - after) <= 5


@settings(max_examples=50, deadline=None)
@given(st.sets(st.text(st.characters(codec="utf-8"), min_size=1), max_size=60))
def test_a_fifth_of_the_normal_images_is_held_out(names: set[str]) -> None:
    paths = {Path("good", str(number)): name for number, name in enumerate(names)}
    kept = held_out(paths)
    assert kept <= set(paths)
    assert len(kept) == len(names) // 5
    for path in kept:  # whoever was kept is kept without another one
        other = {key: name for key, name in paths.items() if key == path or key not in kept}
        assert len(other) < 5 or path in held_out(other)


def test_the_old_names_still_work() -> None:
    import advrad.layouts

    with pytest.warns(DeprecationWarning, match=r"advrad.layouts.find_records is now advrad.data.layouts.find_records"):
        assert advrad.layouts.find_records is find_records
    with pytest.raises(AttributeError, match=r"no attribute 'pictures'; see advrad.data.layouts"):
        advrad.layouts.pictures  # noqa: B018


def test_bad_roots(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout coco: is unknown; choose auto, mvtec, visa, btad, folder"):
        find_records(tmp_path, DataOptions(layout="coco"))
    assert "no such folder" in _message(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "is a file" in _message(tmp_path / "file")
    assert "no normal images; check the path" in _message(_made(tmp_path / "empty"))
    toy_datasets.write_defect(tmp_path / "bad" / "rust" / "1.png", None)
    assert "its folders are rust: put the normal images into one named good" in _message(tmp_path / "bad")
    assert "no category 'rusty'" in _message(tmp_path / "bad", category="rusty")


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_no_normal_image_and_one_normal_image(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path, train=1)
    assert "only one normal image to train on in train/good" in _message(base)
    (base / "train" / "good" / "000.png").unlink()
    assert "no normal image to train on in train/good" in _message(base)
    (base / "train" / "good").rmdir()
    assert "neither train/good" in _message(base)
    assert "train/good is missing" in _message(base, layout="mvtec")
    toy_datasets.make_folder(tmp_path / "one", 1, {"rust": 2})
    assert "only one normal image to train on" in _message(tmp_path / "one")
    toy_datasets.make_folder(tmp_path / "none", 0, {"rust": 2})
    (tmp_path / "none" / "good").mkdir()
    assert "no normal image to train on" in _message(tmp_path / "none")


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert "cannot be listed (Permission denied)" in _message(tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "train", "good", "defects"),
    [
        ("mvtec_ad/bottle", 209, 20, 63),
        ("mvtec_ad/screw", 320, 41, 119),
        ("mvtec_ad/toothbrush", 48, 12, 30),
        ("mtd/magnetic_tile", 756, 196, 392),
    ],
)
def test_real_data(shared_data: Path, name: str, train: int, good: int, defects: int) -> None:
    found = find_records(shared_data / name)
    assert found.layout == "mvtec"
    assert found.notes == ()
    counts = _counts(found)
    assert counts["train", "good"] == train
    assert counts["test", "good"] == good
    assert len(found.records) == train + good + defects
    assert sum(record.mask is not None for record in found.records) == defects


def test_a_plain_folder_is_found_by_its_category(tmp_path: Path) -> None:
    first = find_records(toy_datasets.make_folder(tmp_path / "parts"))
    assert find_records(first.root, DataOptions(layout=first.layout, category=first.category)) == first
