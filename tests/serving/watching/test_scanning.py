"""Which files of a folder are looked at."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trained_run

from advrad.serving.watching.scanning import Scanner
from advrad.utils.output_folders import claim_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


def names(folder: Path, patterns: tuple[str, ...] | None = None, *leave_out: Path) -> list[str]:
    return sorted(Scanner(folder, patterns, leave_out).look())


def put(path: Path) -> Path:
    return trained_run.image(path, 1, size=16)


def test_images_in_all_folders_are_found(folder: Path) -> None:
    for name in ("b.png", "a/c.JPG", "a/b/d.tif"):
        put(folder / name)
    put(folder / "scan.png").rename(folder / "scan")  # begins like an image
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    put(folder / "up.png").rename(folder / "up.png.part")  # an unfinished copy
    put(folder / ".hidden.png")
    put(folder / ".cache" / "x.png")
    (folder / "Thumbs.db").write_bytes(b"\xff\xd8\xff")
    assert names(folder) == ["a/b/d.tif", "a/c.JPG", "b.png", "scan"]


def test_patterns_decide_alone(folder: Path) -> None:
    for name in ("a.png", "cam1/B.PNG", "cam2/c.png", "cam1/d.bmp"):
        put(folder / name)
    (folder / "raw.bin").write_bytes(b"1")
    assert names(folder, ("*.png",)) == ["a.png", "cam1/B.PNG", "cam2/c.png"]
    assert names(folder, ("cam1/*",)) == ["cam1/B.PNG", "cam1/d.bmp"]
    assert names(folder, ("a.*", "*.bin")) == ["a.png", "raw.bin"]


def test_what_advrad_writes_is_left_out(folder: Path) -> None:
    put(folder / "a.png")
    put(folder / "part-0123456789-heat.png")
    put(folder / "out" / "x.png")
    put(claim_folder(folder / "maps", "heat maps") / "y.png")
    assert names(folder, None, folder / "out") == ["a.png"]


def test_links_are_followed_once(folder: Path, tmp_path: Path) -> None:
    put(folder / "z" / "a.png")
    put(tmp_path / "elsewhere" / "b.png")
    (folder / "loop").symlink_to(folder)
    (folder / "again").symlink_to(folder / "z")  # sorts before the real folder
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    (folder / "file.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (folder / "nowhere.png").symlink_to(tmp_path / "no.png")
    (folder / "itself.png").symlink_to("itself.png")
    assert names(folder) == ["file.png", "other/b.png", "z/a.png"]


def test_pipes_and_odd_names(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    put(folder / "line\nbreak.png")
    os.rename(os.fsencode(put(folder / "x.png")), os.fsencode(folder) + b"/odd\xff.png")
    assert names(folder) == ["line\nbreak.png", "odd\udcff.png"]


def test_a_changed_file_is_looked_into_again(folder: Path) -> None:
    scanner = Scanner(folder, None, ())
    (folder / "scan").write_bytes(b"")
    assert scanner.look() == {}
    shutil.copyfile(put(folder / "a.png"), folder / "scan")
    assert sorted(scanner.look()) == ["a.png", "scan"]


def test_a_stamp_changes_with_each_writing(folder: Path) -> None:
    path = put(folder / "a.png")
    scanner = Scanner(folder, None, ())
    before = scanner.look()["a.png"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    os.utime(path, ns=(before.mtime_ns, before.mtime_ns))  # as a copy that keeps times
    after = scanner.look()["a.png"]
    assert (before.size, before.mtime_ns) == (after.size, after.mtime_ns)
    assert before != after


def test_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "a.png")
    put(folder / "closed" / "b.png")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    scanner = Scanner(folder, None, ())
    assert sorted(scanner.look()) == ["a.png"]
    assert scanner.problems == {"closed": "Permission denied"}
    monkeypatch.undo()
    assert sorted(scanner.look()) == ["a.png", "closed/b.png"]
    assert scanner.problems == {}
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        scanner.look()
