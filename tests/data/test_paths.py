"""Image files below folders: which are taken, which are named as passed over, which are left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from advrad.data.paths import describe_files, expand_paths
from advrad.errors import DataError
from advrad.utils.output_folders import claim_folder


def image(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20)).save(path, format=kind)
    return path


def expanded(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images, and of the files that were passed over."""
    others: list[Path] = []
    found = list(expand_paths([folder], others))
    assert all(isinstance(path, Path) for path in found)
    return [str(path.relative_to(folder)) for path in found if isinstance(path, Path)], [path.name for path in others]


def test_images_of_any_ending_are_taken_and_other_files_are_named(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c", "d.png_"):
        image(tmp_path / name)
    image(tmp_path / "e.dng", "TIFF")
    for name in ("notes.txt", "deep/table.csv"):
        (tmp_path / name).write_text("text")
    found, others = expanded(tmp_path)
    assert found == ["a.jpg", "b.PNG", "d.png_", "deep/er/c"]
    assert sorted(others) == ["e.dng", "notes.txt", "table.csv"]


@pytest.mark.parametrize("name", [".hidden.png", "Thumbs.db", ".trash/a.png", "@eaDir/a.png", "__MACOSX/a.png"])
def test_clutter_is_neither_taken_nor_named(name: str, tmp_path: Path) -> None:
    image(tmp_path / name)
    image(tmp_path / "part.png")
    assert expanded(tmp_path) == (["part.png"], [])


@pytest.mark.parametrize("contents", ["heat maps", "results", "model"])
def test_folders_of_advrad_are_left_out(contents: str, tmp_path: Path) -> None:
    image(claim_folder(tmp_path / "out", contents) / "a.png")  # type: ignore[arg-type]
    image(tmp_path / "part.png")
    assert expanded(tmp_path) == (["part.png"], [])


def test_heat_maps_of_an_earlier_version_are_left_out(tmp_path: Path) -> None:
    image(tmp_path / "part.png")
    image(tmp_path / "part.png-0123456789-heat.png")
    image(tmp_path / "part.png-0123456789-reconstruction.png")
    assert expanded(tmp_path) == (["part.png"], [])


def test_a_folder_of_heat_maps_is_not_judged(tmp_path: Path) -> None:
    image(claim_folder(tmp_path / "maps", "heat maps") / "a.png")
    [error] = expand_paths([tmp_path / "maps"])
    assert isinstance(error, DataError) and "holds heat maps that advrad has drawn" in str(error)


def test_a_folder_without_images_names_what_it_holds(tmp_path: Path) -> None:
    [error] = expand_paths([tmp_path])
    assert str(error) == f"{tmp_path}: holds no images; name a folder that does"
    for name in ("a.xyz", "b.xyz", "c.xyz", "d.nef"):
        (tmp_path / name).write_bytes(b"?")
    [error] = expand_paths([tmp_path])
    assert "holds no images, but 4 other files: a.xyz, b.xyz, c.xyz, ... (.nef, .xyz; raw files" in str(error)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    image(tmp_path / "store" / "part.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "camera").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert expanded(tmp_path / "in") == (["camera/part.png"], [])


def test_named_files_are_taken_as_they_are() -> None:
    assert list(expand_paths(["notes.txt", "none.png"])) == [Path("notes.txt"), Path("none.png")]


def test_files_without_an_ending_are_described() -> None:
    assert describe_files([Path("a"), Path("b.TXT")]) == "a, b.TXT (no ending, .txt)"
