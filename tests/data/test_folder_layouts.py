"""The layouts of public data sets and of users' own folders are read, or refused where a role is not clear."""

from __future__ import annotations

from pathlib import Path

import folder_trees
import pytest
from folder_trees import numbered

from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions
from advrad.errors import DataError


def _found(root: Path, *names: list[str]) -> Dataset:
    found = find_records(folder_trees.make_tree(root / "parts", *names))
    # A resumed run finds the same images by what was recorded.
    again = find_records(found.root, DataOptions(layout=found.layout, category=found.category))
    assert again.records == found.records
    return found


def _refused(root: Path, *names: list[str], **options: str) -> str:
    with pytest.raises(DataError) as caught:
        find_records(folder_trees.make_tree(root / "parts", *names), DataOptions.parse(options))
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "test"), [("train/good/", "test/ok/"), ("Train/Good/", "TEST/Normal/"), ("training/normal/", "test/OK/")]
)
def test_normal_images_have_other_names_for_testing(tmp_path: Path, train: str, test: str) -> None:
    bad = test.replace(test.split("/")[1], "Bad")
    found = _found(tmp_path, numbered(train, 12), numbered(test, 4), numbered(bad, 3), numbered("Masks/bad/", 3))
    assert (found.layout, found.warnings) == ("mvtec", ())
    assert folder_trees.counts(found) == {"train good": 12, "test good": 4, "test Bad": 3}
    assert None not in folder_trees.masks(found).values()


def test_btad_in_capitals(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("train/OK/", 5), numbered("test/good/", 2), numbered("test/KO/", 2))
    assert (found.layout, folder_trees.counts(found)) == ("btad", {"train good": 5, "test good": 2, "test KO": 2})


def test_images_in_train_itself_are_normal(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("train/", 8), numbered("test/good/", 2), numbered("test/dent/", 2))
    assert folder_trees.counts(found) == {"train good": 8, "test good": 2, "test dent": 2}
    assert found.notes[0] == "train/ has no folder good: its images are taken as normal"


def test_mvtec_loco(tmp_path: Path) -> None:
    found = _found(
        tmp_path,
        numbered("train/good/", 9),
        numbered("validation/good/", 3),
        numbered("test/good/", 2),
        numbered("test/logical_anomalies/", 2),
        numbered("test/structural_anomalies/", 1),
        numbered("ground_truth/logical_anomalies/000/", 3),
        numbered("ground_truth/logical_anomalies/001/", 1),
        numbered("ground_truth/structural_anomalies/000/", 1),
    )
    assert folder_trees.counts(found)["train good"] == 12
    assert folder_trees.masks(found) == {
        "test/logical_anomalies/000.png": "ground_truth/logical_anomalies/000",
        "test/logical_anomalies/001.png": "ground_truth/logical_anomalies/001",
        "test/structural_anomalies/000.png": "ground_truth/structural_anomalies/000",
    }
    assert found.notes == ("normal images of validation/good/ are used for training, too: 3",)
    assert found.warnings == ()


def test_mvtec_ad_2(tmp_path: Path) -> None:
    found = _found(
        tmp_path,
        numbered("train/good/", 6, "_regular.png"),
        numbered("validation/good/", 2, "_regular.png"),
        numbered("test_public/good/", 2, "_shift_1.png"),
        numbered("test_public/bad/", 2, "_shift_1.png"),
        numbered("test_public/ground_truth/bad/", 2, "_shift_1_mask.png"),
        numbered("test_private/", 3),
    )
    assert folder_trees.counts(found) == {"train good": 8, "test good": 2, "test bad": 2}
    assert folder_trees.masks(found)["test_public/bad/001_shift_1.png"] == (
        "test_public/ground_truth/bad/001_shift_1_mask.png"
    )
    assert folder_trees.left_out(found) == {"without a label": 3}
    assert "images in test_private/ are not used: 3" in found.warnings[0]


def test_mvtec_3d_leaves_out_the_points(tmp_path: Path) -> None:
    parts = ("train/good/", "test/good/", "test/hole/")
    images = [name for part in parts for name in numbered(f"{part}rgb/", 4)]
    points = [name for part in parts for name in numbered(f"{part}xyz/", 4, ".tiff")]
    found = _found(tmp_path, images, points, numbered("test/hole/gt/", 4))
    assert folder_trees.counts(found) == {"train good": 4, "test good": 4, "test hole": 4}
    assert folder_trees.masks(found)["test/hole/rgb/000.png"] == "test/hole/gt/000.png"
    assert folder_trees.left_out(found) == {"depth in place of an image": 12}


def test_folders_of_visa_without_its_table(tmp_path: Path) -> None:
    found = _found(
        tmp_path,
        numbered("Data/Images/Normal/", 10, ".JPG"),
        numbered("Data/Images/Anomaly/", 2, ".JPG"),
        numbered("Data/Masks/Anomaly/", 2),
        ["image_anno.csv"],
    )
    assert (found.layout, found.root) == ("folder", tmp_path / "parts")
    assert folder_trees.counts(found) == {"train good": 8, "test good": 2, "test Anomaly": 2}
    assert folder_trees.masks(found)["Data/Images/Anomaly/000.JPG"] == "Data/Masks/Anomaly/000.png"


def test_several_plain_products_must_be_named(tmp_path: Path) -> None:
    names = [f"{product}/{name}" for product in ("nut", "bolt") for name in ("good/1.png", "good/2.png", "bad/1.png")]
    assert "holds several categories (bolt, nut)" in _refused(tmp_path, names)
    found = find_records(tmp_path / "parts", DataOptions(category="nut"))
    assert (found.category, folder_trees.counts(found)) == ("nut", {"train good": 2, "test bad": 1})


def test_the_only_product_and_what_lies_beside_it(tmp_path: Path) -> None:
    found = find_records(folder_trees.make_tree(tmp_path, numbered("nut/good/", 3), ["nut/bad/1.png", "old/2.png"]))
    assert (found.root, found.category) == (tmp_path / "nut", "nut")
    assert folder_trees.left_out(found) == {"beside the product nut/": 1}


def test_a_product_in_folders_of_folders(tmp_path: Path) -> None:
    root = folder_trees.make_tree(
        tmp_path / "zip", [f"screw/screw/{name}" for name in numbered("train/good/", 3)], ["a.txt"]
    )
    found = find_records(root)
    assert (found.root, found.category) == (root / "screw" / "screw", "screw")
    assert folder_trees.left_out(found) == {"beside the product screw/": 1}


def test_holders_of_images(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("train/images/", 5), numbered("test/OK/", 2), numbered("test/NG/", 2))
    assert folder_trees.counts(found) == {"train good": 5, "test good": 2, "test NG": 2}
    names = numbered("images/good/", 5), numbered("images/dent/", 1), numbered("labels/dent/", 1)
    found = _found(tmp_path / "b", *names)
    assert folder_trees.masks(found) == {"images/dent/000.png": "labels/dent/000.png"}


def test_results_are_no_kind_of_defect(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("good/", 5), ["dent/1.png", "Predictions/1.png", "heat maps/1.png"])
    assert folder_trees.counts(found) == {"train good": 4, "test good": 1, "test dent": 1}
    assert [warning.split()[2] for warning in found.warnings if "results" in warning] == ["Predictions/", "heat"]


def test_a_kind_of_defect_is_no_product(tmp_path: Path) -> None:
    message = _refused(tmp_path, numbered("good/", 3), numbered("dent/", 3), category="dent")
    assert "has no category 'dent'; name the product's folder itself" in message


def test_images_in_folders_below_are_used(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("ok/", 5), numbered("ok/night/", 3), numbered("ok/day/a/", 2), ["dent/x/y/1.png"])
    assert folder_trees.counts(found) == {"train good": 8, "test good": 2, "test dent": 1}
    assert "images in folders below ok/ are used, too: 5" in found.notes


def test_two_folders_of_normal_images(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("good/", 5), numbered("Good/", 5), numbered("dent/", 1))
    assert folder_trees.counts(found)["train good"] == 8
    assert found.notes[0] == "normal images are those of Good/, good/"
    found = _found(tmp_path / "b", numbered("train/good/", 5), numbered("train/ok/", 5))
    assert (found.layout, found.notes) == ("mvtec", ("normal images are those of train/good/, train/ok/",))


def test_what_advrad_wrote_is_no_kind_of_defect(tmp_path: Path) -> None:
    root = folder_trees.make_tree(
        tmp_path / "parts",
        numbered("good/", 5),
        numbered("dent/", 1),
        [
            "maps/1.png-0123456789-heat.png",
            "maps/1.png-0123456789-reconstruction.png",
            "dent/2.png-abcdef0123-heat.png",
        ],
        ["attack/pictures/1.png", "attack/.advrad-output", "dent/run/x.png"],
    )
    (root / "dent" / "run" / "config.json").write_text('{"format": "advrad"}')
    found = find_records(root)
    assert folder_trees.counts(found) == {"train good": 4, "test good": 1, "test dent": 1}
    assert "maps/ is not used: advrad wrote it" in found.notes
    assert [warning.partition(",")[0] for warning in found.warnings] == [
        "images in attack/ are not used",
        "images in dent/run/ are not used",
    ]
    assert found.account.files == 13


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["test/1.png"], "test: lies beside folders of normal or anomalous images"),
        (["good_old/1.png"], "good_old: does it hold normal images or a kind of defect? Put them into good/"),
        (["Positive/1.png"], "Positive: does it hold normal images or a kind of defect"),
        (["good/bad/1.png"], "good/bad: its name says that its images are anomalous, but it lies in good/"),
        (["good/dent/1.png"], "good/dent: its name says that its images are anomalous, but it lies in good/"),
        (["dent/OK/1.png"], "dent/OK: its name says that its images are normal, but it lies in dent/"),
        (["good/test/1.png"], "good/test: its name says that its images are for testing, but it lies in good/"),
    ],
)
def test_unclear_roles_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    assert words in _refused(tmp_path, numbered("good/", 5), ["dent/1.png"], names)


def test_kinds_in_train_without_good_are_refused(tmp_path: Path) -> None:
    message = _refused(tmp_path, numbered("train/ok_front/", 5), ["train/def_front/1.png", "test/ok_front/1.png"])
    assert "train/ holds def_front, ok_front; name the folder of normal images in it good" in message


def test_images_beside_products_are_refused(tmp_path: Path) -> None:
    message = _refused(tmp_path, numbered("", 5), numbered("nut/good/", 5))
    assert "holds images itself, and normal images in a folder of nut/" in message


def test_what_is_doubtful_is_warned_of(tmp_path: Path) -> None:
    found = _found(
        tmp_path,
        numbered("train/good/", 5),
        ["train/x.png", "train/dent/1.png", "val/dent/1.png", "val/y.png", "test/z.png", "good/1.png"],
        ["test/unknown/1.png", "test/dent/1.png", "test/Dent/1.png", "test/hole/"],
    )
    assert folder_trees.counts(found) == {"train good": 5, "test dent": 1, "test Dent": 1}
    for words in (
        "images in train/ beside good/ are not used: 1",
        "images in train/dent/ are not used: 1",
        "images in val/ are not used: 1",
        "images in val/dent/ are not used: 1",
        "images in test/ itself are not used: 1",
        "images in test/unknown/ are not used: 1",
        "images in good/ are not used: 1",
        "test/dent/ differs from another kind of defect in capitals only",
        "test/hole/ holds no images",
    ):
        assert [warning for warning in found.warnings if words in warning], words


def test_files_that_may_hold_images_are_warned_of(tmp_path: Path) -> None:
    found = _found(tmp_path, numbered("good/", 5), ["good/a.dng", "good/b.DNG", "good/c.txt"])
    assert found.notes == ("files that are not images were ignored: 2 .dng, 1 .txt",)
    assert found.warnings == ("files that may hold images are not read: 2 .dng; convert them to PNG",)


@pytest.mark.parametrize("count", [24, 25, 52, 53, 54])
@pytest.mark.parametrize("form", ["{:d}.png", "IMG_{:04d}.JPG", "cam-{:05d}.bmp"])
def test_a_fifth_is_kept_for_testing_whatever_the_names(tmp_path: Path, count: int, form: str) -> None:
    found = _found(tmp_path, [f"good/{form.format(i)}" for i in range(count)], ["dent/1.png"])
    assert folder_trees.counts(found)["test good"] == count // 5
