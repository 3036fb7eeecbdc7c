"""Reading, setting aside and moving files that others may change at the same time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.serving.watching.files import SetAside, move, read_whole
from advrad.serving.watching.scanning import Stamp

KEY = "0123456789abcdef" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "part.png"
    path.parent.mkdir()
    path.write_bytes(b"content")
    return path


def stamp(path: Path) -> Stamp:
    return Stamp.of(path.stat())


def test_a_file_is_read_only_if_it_has_not_changed(file: Path) -> None:
    before = stamp(file)
    assert read_whole(file, before) == b"content"
    file.write_bytes(b"another")
    assert read_whole(file, before) is None
    file.unlink()
    assert read_whole(file, before) is None
    os.mkfifo(file)
    assert read_whole(file, before) is None


def test_a_file_that_is_written_while_it_is_read_is_not_taken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = stamp(file), os.fstat
    calls: list[int] = []

    def fstat(number: int) -> os.stat_result:
        calls.append(number)
        if len(calls) == 2:
            with file.open("ab") as more:
                more.write(b"!")
        return real(number)

    monkeypatch.setattr(os, "fstat", fstat)
    assert read_whole(file, before) is None


def test_a_replaced_file_is_not_taken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = stamp(file), os.open

    def opened(path: Path, flags: int) -> int:
        number = real(path, flags)
        file.with_name("new").write_bytes(b"newer")
        os.replace(file.with_name("new"), file)
        return number

    monkeypatch.setattr(os, "open", opened)
    assert read_whole(file, before) is None


def test_setting_aside_survives_a_restart(tmp_path: Path, file: Path) -> None:
    aside = SetAside(tmp_path / "unreadable")
    assert not aside.holds(KEY)
    text = aside.put(file, b"content", "is cut short (truncated)", KEY)
    assert text.name == "part-0123456789abcdef.png.txt"
    assert (text.parent / "part-0123456789abcdef.png").read_bytes() == b"content"
    assert text.read_text(encoding="utf-8").splitlines()[:2] == [
        f"file    {file}",
        "reason  is cut short (truncated)",
    ]
    assert file.exists()
    assert SetAside(tmp_path / "unreadable").holds(KEY)
    text.unlink()
    assert not SetAside(tmp_path / "unreadable").holds(KEY)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("line\nbreak.png", "line_break-0123456789abcdef.png.txt"),
        ("odd\udcff.png", "odd_-0123456789abcdef.png.txt"),
        (".png", "png-0123456789abcdef.txt"),
        ("x" * 250 + ".png", "x" * 80 + "-0123456789abcdef.png.txt"),
        ("a.b c", "a.b_c-0123456789abcdef.txt"),
        ("Teil Ä.JPEG", "Teil__-0123456789abcdef.JPEG.txt"),
    ],
)
def test_names_of_set_aside_files_are_plain(tmp_path: Path, name: str, kept: str) -> None:
    aside = SetAside(tmp_path / "unreadable")
    text = aside.put(tmp_path / name, b"x", "reason", KEY)
    assert text.name == kept
    assert len(text.read_text(encoding="utf-8").splitlines()) == 3
    assert SetAside(tmp_path / "unreadable").holds(KEY)


def test_a_file_is_moved_and_nothing_is_overwritten(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "done" / "a" / "part.png"
    assert move(file, stamp(file), target, KEY)
    assert (file.exists(), target.read_bytes()) == (False, b"content")
    file.write_bytes(b"another")
    assert move(file, stamp(file), target, KEY)
    assert target.read_bytes() == b"content"
    assert target.with_name("part-0123456789abcdef.png").read_bytes() == b"another"


def test_changed_files_and_links_are_not_moved(tmp_path: Path, file: Path) -> None:
    before = stamp(file)
    file.write_bytes(b"another")
    assert not move(file, before, tmp_path / "done" / "part.png", KEY)
    link = file.with_name("link.png")
    link.symlink_to(file)
    assert not move(link, stamp(link), tmp_path / "done" / "link.png", KEY)
    assert not (tmp_path / "done").exists() or not list((tmp_path / "done").iterdir())
    assert link.is_symlink() and file.exists()


def test_a_file_that_takes_the_name_in_between_stays(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = stamp(file), os.rename

    def rename(source: Path, target: Path) -> None:
        file.with_name("new").write_bytes(b"newer")
        os.replace(file.with_name("new"), file)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert not move(file, before, tmp_path / "done" / "part.png", KEY)
    assert file.read_bytes() == b"newer"
    assert list((tmp_path / "done").iterdir()) == []


def test_to_another_disk(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", rename)
    target, written = tmp_path / "done" / "part.png", file.stat().st_mtime_ns
    assert move(file, stamp(file), target, KEY)
    assert (file.exists(), target.read_bytes(), target.stat().st_mtime_ns) == (False, b"content", written)
    file.write_bytes(b"another")
    before, real = stamp(file), os.fsync

    def fsync(number: int) -> None:
        file.write_bytes(b"written in between")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    assert not move(file, before, tmp_path / "done" / "other.png", KEY)
    assert file.read_bytes() == b"written in between"
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["part.png"]


def test_what_cannot_be_moved_is_one_error(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match=r"part\.png: cannot be moved: permission denied"):
        move(file, stamp(file), tmp_path / "done" / "part.png", KEY)
    assert file.exists()
