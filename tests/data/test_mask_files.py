"""The mask of an image is found by any usual name; one that fits several images is not used."""

from __future__ import annotations

from pathlib import Path

import folder_trees
import numpy as np
import pytest
import toy_datasets
from PIL import Image

from advrad.data.layouts import Dataset, find_records
from advrad.data.loading import load_masks
from advrad.errors import DataError

GOOD = folder_trees.numbered("good/", 10)


def _found(root: Path, *names: str) -> Dataset:
    return find_records(folder_trees.make_tree(root / "data", GOOD, names))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("dent/7.jpg", "Masks/dent/7.png"),
        ("dent/7.jpg", "MASK/Dent/7_Mask.TIF"),
        ("dent/7.jpg", "masks/7.bmp"),
        ("dent/7.jpg", "groundtruth/dent/7-gt.png"),
        ("dent/7.jpg", "gt/7_label.png"),
        ("dent/7.jpg", "masks/dent-7.png"),
        ("dent/7.jpg", "masks/dent_7_mask.png"),
        ("dent/7.jpg", "masks/dent/7.jpg.png"),
        ("dent/IMG_7.JPG", "masks/dent/img_7.png"),
        ("dent/7.jpg", "dent/7_mask.png"),
        ("dent/7.png", "dent/7_GT.png"),
        ("dent/7.png", "dent/masks/7.png"),
        ("dent/images/7.png", "dent/gt/7.png"),
        ("dent/7.png", "dent_masks/7.png"),
        ("dent/7.jpg", "labels/dent/7.png"),
        ("dent/7.jpg", "annotations/7_seg.png"),
        ("dent/monday/7.png", "masks/dent/7.png"),
        ("dent/monday/7.png", "masks/dent/monday/7.png"),
    ],
)
def test_the_mask_of_an_image(tmp_path: Path, image: str, mask: str) -> None:
    found = _found(tmp_path, image, mask)
    assert folder_trees.masks(found) == {image: mask}
    assert folder_trees.counts(found) == {"train good": 8, "test good": 2, "test dent": 1}
    assert (found.warnings, folder_trees.left_out(found)) == ((), {})


def test_masks_of_the_same_names_in_several_folders(tmp_path: Path) -> None:
    names = [f"{top}{kind}/{day}/1.png" for kind in ("dent", "rust") for day in "ab" for top in ("", "masks/")]
    found = _found(tmp_path, *names)
    assert folder_trees.masks(found) == {name: f"masks/{name}" for name in names if not name.startswith("masks")}


def test_masks_without_an_image_are_named(tmp_path: Path) -> None:
    found = _found(tmp_path, "dent/1.png", "masks/dent/1.png", "masks/dent/2.png", "masks/rust/1.png")
    assert folder_trees.masks(found) == {"dent/1.png": "masks/dent/1.png"}
    assert len(found.warnings) == 1
    assert "masks without an image are not used: 2 (masks/dent/2.png, masks/rust/1.png)" in found.warnings[0]
    assert folder_trees.left_out(found) == {"mask without an image": 2}


@pytest.mark.parametrize(
    ("images", "mask"),
    [(("dent/1.png", "rust/1.png"), "masks/1.png"), (("dent/1.png", "dent/1.jpg"), "masks/dent/1_mask.png")],
)
def test_a_mask_that_fits_two_images_is_given_to_neither(tmp_path: Path, images: tuple[str, str], mask: str) -> None:
    found = _found(tmp_path, *images, mask)
    assert set(folder_trees.masks(found).values()) == {None}
    assert f"masks that fit several images are not used: 1 ({mask})" in found.warnings[0]


def test_two_masks_of_one_image_are_not_used(tmp_path: Path) -> None:
    found = _found(tmp_path, "dent/1.png", "masks/dent/1.png", "masks/dent/1.bmp")
    assert folder_trees.masks(found) == {"dent/1.png": None}
    assert "images with several masks count as without one: 1 (dent/1.png)" in found.warnings[0]
    assert folder_trees.left_out(found) == {"one of several masks of one image": 2}


def test_masks_of_normal_images_are_no_images(tmp_path: Path) -> None:
    found = _found(tmp_path, "dent/x.png", *folder_trees.numbered("masks/good/", 10), "good/000_mask.png")
    assert folder_trees.counts(found) == {"train good": 8, "test good": 2, "test dent": 1}
    assert folder_trees.left_out(found) == {"mask of a normal image": 11}
    assert "good/ holds masks beside its normal images, such as 000_mask.png" in found.warnings[0]


def test_labels_may_be_masks_or_a_kind_of_defect(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels: does it hold masks or a kind of defect"):
        _found(tmp_path / "a", "dent/1.png", "labels/1.png")
    kind = _found(tmp_path / "b", "dent/1.png", "label/2.png")
    assert folder_trees.counts(kind)["test label"] == 1
    with_masks = _found(tmp_path / "c", "dent/1.png", "label/1.png", "masks/label/1.png")
    assert folder_trees.masks(with_masks) == {"dent/1.png": None, "label/1.png": "masks/label/1.png"}


@pytest.mark.parametrize("names", [("masks/000.png",), ("000_mask.png",)])
def test_images_with_masks_are_not_taken_as_normal_without_a_word(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = folder_trees.make_tree(tmp_path, folder_trees.numbered("", 10), names)
    with pytest.raises(DataError, match=r"is a mask of an image in .*, where no folder says which images are normal"):
        find_records(root)


def test_a_folder_of_masks_is_their_union(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path, defects={"structural": 3})
    image = base / "test" / "structural" / "001.png"
    whole = base / "ground_truth" / "structural" / "001_mask.png"
    marked = np.asarray(Image.open(whole)) > 0
    whole.unlink()
    folder = base / "ground_truth" / "structural" / "001"
    folder.mkdir()
    upper = marked & (np.cumsum(marked) <= marked.sum() // 2).reshape(marked.shape)
    for number, part in enumerate((upper, marked & ~upper)):
        Image.fromarray(np.uint8(part) * 200).save(folder / f"{number:03}.png")
    found = find_records(base)
    record = next(record for record in found.records if record.path == image)
    assert (record.mask, found.warnings) == (folder, ())
    assert {entry.what: entry.count for entry in found.account.entries if entry.use == "mask"} == {"of structural": 4}
    masks, known = load_masks([record], 32)
    assert known.all()
    assert np.array_equal(masks[0], marked)
