"""Folders are listed without loops, without clutter, and whatever their names."""

from __future__ import annotations

import os
from pathlib import Path

import folder_trees
import pytest

from advrad.data.folders import Folder
from advrad.data.layouts import find_records
from advrad.errors import DataError

GOOD = folder_trees.numbered("good/", 6)


def test_links_that_lead_back_are_left_out(tmp_path: Path) -> None:
    root = folder_trees.make_tree(tmp_path / "data", GOOD, ["scratch/1.png"])
    (root / "good" / "again").symlink_to(root)
    (root / "scratch" / "self").symlink_to(root / "scratch")
    (root / "ring").symlink_to(root / "ring")
    found = find_records(root)
    assert folder_trees.counts(found) == {"train good": 5, "test good": 1, "test scratch": 1}
    assert folder_trees.left_out(found) == {"a link to a folder above it": 2, "not an image": 1}


def test_a_link_to_a_folder_beside_it_is_no_kind_of_defect(tmp_path: Path) -> None:
    root = folder_trees.make_tree(tmp_path / "data", GOOD, ["scratch/1.png"])
    (root / "latest").symlink_to("good")
    found = find_records(root)
    assert folder_trees.counts(found) == {"train good": 5, "test good": 1, "test scratch": 1}
    assert folder_trees.left_out(found) == {"a link to good beside it": 1}


def test_links_to_other_folders_and_files_are_followed(tmp_path: Path) -> None:
    elsewhere = folder_trees.make_tree(tmp_path / "elsewhere", GOOD, ["one.png"])
    root = folder_trees.make_tree(tmp_path / "data", ["scratch/1.png"])
    (root / "good").symlink_to(elsewhere / "good")
    (root / "scratch" / "2.png").symlink_to(elsewhere / "one.png")
    assert folder_trees.counts(find_records(root)) == {"train good": 5, "test good": 1, "test scratch": 2}


def test_names_need_not_be_text(tmp_path: Path) -> None:
    root = folder_trees.make_tree(tmp_path / "data", GOOD, ["scratch/1.png"])
    odd = [os.fsdecode(name) for name in (b"\xff.png", b"two\nlines.png", "検査.png".encode())]
    folder_trees.make_tree(root, [f"good/{name}" for name in odd], [f"{os.fsdecode(bytes([254]))}/x.png"])
    found = find_records(root)
    assert {record.path.name for record in found.records} >= set(odd)
    assert sum(record.label for record in found.records) == 2
    assert found.account.files == 11


def test_pipes_are_left_out(tmp_path: Path) -> None:
    root = folder_trees.make_tree(tmp_path / "data", GOOD)
    os.mkfifo(root / "good" / "camera.png")
    assert folder_trees.left_out(find_records(root)) == {"neither a file nor a folder": 1}


def test_an_image_without_an_ending_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    root = folder_trees.make_tree(tmp_path / "data", ["scan", "note", "a.png"])
    (root / "scan").write_bytes(b"\x89PNG\r\n\x1a\n")
    folder = Folder(root)
    assert [path.name for path in folder.images] == ["a.png", "scan"]
    assert [path.name for path in folder.others] == ["note"]


def test_a_folder_below_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_trees.make_tree(tmp_path / "data", GOOD, ["scratch/deep/1.png"])
    real = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"scratch/deep: cannot be listed \(Permission denied\); check its permissions"):
        find_records(root)
