"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.utils import files


def test_atomic_path_gives_the_file_its_name_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    with files.atomic_path(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_atomic_path_leaves_the_old_file_when_interrupted(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(error), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    with (
        pytest.raises(OutputError, match="the disk is full") as caught,
        files.atomic_path(target) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(target) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_real_full_device(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OutputError, match="the disk is full"), files.atomic_path(tmp_path / "x") as temporary:
        temporary.symlink_to(full)
        with temporary.open("w") as file:
            file.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_an_oserror_without_a_number_still_gives_a_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="too short, the disk is probably full"),
        files.atomic_path(tmp_path / "x"),
    ):
        raise OSError("100 requested and 3 written")
    with (
        pytest.raises(OutputError, match="something odd; check the disk") as caught,
        files.atomic_path(tmp_path / "x"),
    ):
        raise OSError("something\n odd")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder is missing"):
        files.write_text(tmp_path / "none" / "x.txt", "x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        files.write_text(tmp_path / "taken", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_name_of_the_full_length_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 251 + ".txt")
    files.write_text(target, "x")
    assert target.read_text() == "x"


def test_write_json_is_utf8_and_refuses_nan(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"name": "Düse", "value": 1.5})
    assert json.loads(target.read_text(encoding="utf-8")) == {"name": "Düse", "value": 1.5}
    assert "Düse" in target.read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        files.write_json(target, {"value": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8"))["value"] == 1.5


def test_make_folder(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="file"):
            files.make_folder(path)


def test_ensure_writable_makes_folders_and_refuses_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.ensure_writable(tmp_path / "a" / "b" / "c.html")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(OutputError, match="is a folder; name a file"):
        files.ensure_writable(tmp_path / "a")
    monkeypatch.setattr("advrad.utils.files.os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"c\.html: cannot be written: permission denied"):
        files.ensure_writable(tmp_path / "a" / "c.html")


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "latest.html"
    link.symlink_to(tmp_path / "store" / "monday.html")
    for text in ("first", "second"):
        files.write_text(link, text)
        assert link.is_symlink() and (tmp_path / "store" / "monday.html").read_text() == text
    assert len(list((tmp_path / "store").iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "figures")
    reader.join(timeout=10)
    assert read == ["figures"] and files.is_stream(pipe)
    files.ensure_writable(pipe)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(os.name != "posix", reason="needs devices")
def test_the_null_device_is_not_replaced() -> None:
    files.write_text(Path(os.devnull), "figures")
    assert files.is_stream(Path(os.devnull)) and files.is_stream(Path("/dev/stdout"))
    assert not files.is_stream(Path("/dev/shm/new-file-of-a-test"))
