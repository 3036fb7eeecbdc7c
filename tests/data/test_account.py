"""Every file below the folder of a data set is accounted for."""

from __future__ import annotations

import os
from pathlib import Path

import folder_trees
import pytest
import toy_datasets
from folder_trees import numbered
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.data.account import AccountEntry
from advrad.data.layouts import find_records
from advrad.errors import DataError

_FOLDERS = ("good", "ok", "train", "test", "dent", "masks", "labels", "@eaDir", ".hidden", "deep", "unknown", "images")
_FILES = ("1.png", "2.jpg", "1_mask.png", "notes.txt", "x.png-0123456789-heat.png", ".hidden.png", "Thumbs.db", "a.dng")


def test_the_account_of_a_plain_folder(tmp_path: Path) -> None:
    names = numbered("good/", 10), ["dent/1.png", "masks/dent/1.png", "masks/dent/2.png", "loose.png", "notes.txt"]
    clutter = ["@eaDir/a/1.png", "good/.DS_Store", "good/Thumbs.db", "old/.ipynb_checkpoints/1.png"]
    found = find_records(folder_trees.make_tree(tmp_path, *names, clutter))
    assert [entry.describe() for entry in found.account.entries] == [
        f"8 train good, such as {found.records[0].path.relative_to(tmp_path)}",
        "1 test dent, such as dent/1.png",
        f"2 test good, such as {found.records[9].path.relative_to(tmp_path)}",
        "1 mask of dent, such as masks/dent/1.png",
        "1 beside good/, such as loose.png",
        "2 clutter of a file manager, such as @eaDir/a/1.png",
        "2 hidden, such as good/.DS_Store",
        "1 mask without an image, such as masks/dent/2.png",
        "1 not an image, such as notes.txt",
    ]
    assert found.account.files == 19
    assert found.account.left_out == found.account.entries[4:]


def test_the_account_of_the_table_of_visa(tmp_path: Path) -> None:
    root = toy_datasets.make_visa(tmp_path)
    toy_datasets.write_good(root / "candle" / "Data" / "Images" / "Normal" / "extra.JPG")
    account = find_records(root).account
    assert {(entry.use, entry.what): entry.count for entry in account.entries} == {
        ("train", "good"): 12,
        ("test", "good"): 4,
        ("test", "anomaly"): 3,
        ("mask", "of anomaly"): 3,
        ("table", ""): 1,
        (None, "not in the table"): 1,
    }


def test_an_entry_as_json() -> None:
    entry = AccountEntry(None, "not an image", 2, ("a.txt", "b.txt"))
    assert entry.to_dict() == {"use": None, "what": "not an image", "count": 2, "examples": ["a.txt", "b.txt"]}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(_FOLDERS), max_size=3), st.sampled_from(_FILES)), max_size=25, unique_by=str
    )
)
def test_no_file_is_forgotten(tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[str], str]]) -> None:
    root = tmp_path_factory.mktemp("data")
    folder_trees.make_tree(root, ["/".join([*folders, name]) for folders, name in files])
    try:
        found = find_records(root)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert found.account.files == sum(len(names) for _, _, names in os.walk(root))
    used = [entry for entry in found.account.entries if entry.use in ("train", "test")]
    assert sum(entry.count for entry in used) == len({record.path for record in found.records}) == len(found.records)
    masks = sum(entry.count for entry in found.account.entries if entry.use == "mask")
    assert masks == len({record.mask for record in found.records if record.mask})
