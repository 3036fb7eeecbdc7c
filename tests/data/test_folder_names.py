"""Names of folders say their role, however they are spelt."""

from __future__ import annotations

import pytest

from advrad.data import folder_names


@pytest.mark.parametrize(
    "name",
    [
        "good",
        "Good",
        "GOOD",
        "ok",
        "Okay",
        "NORMAL",
        "i.O.",
        "defect-free",
        "No_Defects",
        "non defective",
        "pass",
        "正常",
    ],
)
def test_normal_images(name: str) -> None:
    assert folder_names.role_of(name) == "good"
    assert folder_names.is_good(name)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("scratch", "defect"),
        ("not_good", "defect"),
        ("NG", "defect"),
        ("n.i.O", "defect"),
        ("abnormal", "defect"),
        ("goodyear", "defect"),
        ("normality", "defect"),
        ("2", "defect"),
        ("good_old", "unclear"),
        ("OK parts", "unclear"),
        ("GoodParts", "unclear"),
        ("negative", "unclear"),
        ("Reference", "unclear"),
        ("images", "unclear"),
        ("masks", "masks"),
        ("GroundTruth", "masks"),
        ("Ground Truth", "masks"),
        ("GT", "masks"),
        ("defect_masks", "masks"),
        ("mask_images", "masks"),
        ("test-masks", "masks"),
        ("label", "perhaps masks"),
        ("Annotations", "perhaps masks"),
        ("torn_mask", "perhaps masks"),
        ("Train", "split"),
        ("test_set", "split"),
        ("VAL", "split"),
        ("unlabeled", "unlabelled"),
        ("to sort", "unlabelled"),
        ("test_private_mixed", "unlabelled"),
    ],
)
def test_other_roles(name: str, role: str) -> None:
    assert folder_names.role_of(name) == role


@pytest.mark.parametrize("name", ["@eaDir", "THUMBS.DB", ".DS_Store", "__MACOSX", "#recycle", "lost+found", ".git"])
def test_clutter(name: str) -> None:
    assert folder_names.is_clutter(name)


@pytest.mark.parametrize(
    ("stem", "image"),
    [
        ("7_mask", "7"),
        ("7-GT", "7"),
        ("a b (mask)", "a b"),
        ("part.7_label", "part.7"),
        ("IMG_7_ground_truth", "IMG_7"),
        ("7_seg", "7"),
        ("7Mask", "7"),
        ("mask_7", "7"),
        ("7.jpg_mask", "7.jpg"),
    ],
)
def test_the_image_of_a_mask(stem: str, image: str) -> None:
    assert folder_names.unmasked(stem) == (stem, image)


@pytest.mark.parametrize("stem", ["7", "unmasked", "target", "mask", "_gt"])
def test_a_name_without_a_word_for_masks_is_itself(stem: str) -> None:
    assert folder_names.unmasked(stem) == (stem,)
