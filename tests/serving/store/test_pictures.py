"""The files of the images."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from advrad.errors import ConfigError, OutputError
from advrad.serving.errors import ArtefactUnavailable, StoreUnavailable
from advrad.serving.store import pictures as module
from advrad.serving.store.pictures import Pictures


def aged(pictures: Pictures, digest: str, seconds: float = 7200) -> Path:
    """Make a file look as if it was stored long ago."""
    path = pictures.path(digest)
    os.utime(path, (time.time() - seconds,) * 2)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "data" / "pictures")


def test_an_image_is_kept_once_under_its_hash(pictures: Pictures) -> None:
    content = os.urandom(3000)
    digest = pictures.put(content)
    assert digest == sha256(content).hexdigest() == pictures.put(content)
    assert pictures.read(digest) == content == pictures.path(digest).read_bytes()
    assert pictures.has(digest)
    assert [(one.digest, one.size) for one in pictures.files()] == [(digest, 3000)]
    assert pictures.put(b"") == sha256(b"").hexdigest()


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "\0" * 64])
def test_only_a_hash_becomes_a_path(pictures: Pictures, name: str) -> None:
    for ask in (pictures.path, pictures.read, pictures.has, pictures.remove):
        with pytest.raises(ConfigError, match=r"^picture: is no SHA-256"):
            ask(name)


def test_an_image_that_is_gone_or_damaged_is_said(pictures: Pictures) -> None:
    digest = pictures.put(b"image")
    pictures.path(digest).write_bytes(b"imagf")
    with pytest.raises(ArtefactUnavailable, match="is damaged on the disk"):
        pictures.read(digest)
    pictures.path(digest).unlink()
    assert not pictures.has(digest)
    for ask in (pictures.path, pictures.read):
        with pytest.raises(ArtefactUnavailable, match=f"the image {digest[:12]} is no longer kept"):
            ask(digest)


def test_a_file_that_a_power_cut_left_short_is_written_again(pictures: Pictures) -> None:
    digest = pictures.put(b"image")
    pictures.path(digest).write_bytes(b"")
    assert pictures.put(b"image") == digest
    assert pictures.read(digest) == b"image"


def test_a_full_disk_is_said_and_leaves_nothing_behind(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="cannot be written: the disk is full") as error:
            pictures.put(b"image")
    assert error.value.fix == "free some space or write elsewhere"
    assert list(pictures.files()) == []
    assert pictures.read(pictures.put(b"image")) == b"image"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="the folder cannot be created"):
        Pictures(tmp_path / "file" / "pictures")


def test_an_image_in_use_is_not_removed(pictures: Pictures) -> None:
    digest = pictures.put(b"image")
    assert not pictures.remove(digest)
    aged(pictures, digest)
    pictures.put(b"image")
    assert not pictures.remove(digest)
    assert pictures.read(digest) == b"image"
    aged(pictures, digest)
    assert pictures.remove(digest)
    assert not pictures.has(digest)
    assert pictures.remove(digest)


def test_an_image_that_is_sent_while_it_is_being_removed_stays(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = pictures.put(b"image")
    aged(pictures, digest)
    rename = os.rename

    def sent_just_before(source: Any, target: Any) -> None:
        monkeypatch.setattr(module.os, "rename", rename)
        pictures.put(b"image")
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", sent_just_before)
    assert not pictures.remove(digest)
    assert pictures.read(digest) == b"image"

    aged(pictures, digest)

    def sent_just_after(source: Any, target: Any) -> None:
        monkeypatch.setattr(module.os, "rename", rename)
        rename(source, target)
        pictures.put(b"image")

    monkeypatch.setattr(module.os, "rename", sent_just_after)
    assert pictures.remove(digest)
    # The old file is gone, and the new one is there.
    assert pictures.read(digest) == b"image"
    assert len(list(pictures.files())) == 1


def test_leftovers_of_a_killed_process_are_listed_and_foreign_files_are_not(pictures: Pictures) -> None:
    digest = pictures.put(b"image")
    folder = pictures.path(digest).parent
    (folder / ".0123456789ab.part").write_bytes(b"half")
    (folder / ".0123456789ab.aside").write_bytes(b"old")
    (folder / "README").write_text("of somebody else")
    (folder / ("f" * 64)).write_text("in the folder of another hash")
    (pictures.folder / "notes.txt").write_text("x")
    names = sorted((one.digest or one.path.suffix) for one in pictures.files())
    assert names == sorted([".part", ".aside", digest])
