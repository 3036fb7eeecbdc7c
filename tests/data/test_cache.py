"""The cache of decoded images: entries are complete or ignored, found by content, and deleted when too many."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest

from advrad.data import cache
from advrad.data.framing import Framing
from advrad.data.value_range import ImageLevels
from advrad.errors import OutputError

S16, S24 = Framing.square(16), Framing.square(24)


def entry(count: int = 4, seed: int = 0, bad: dict[int, str] | None = None) -> cache.Entry:
    values = np.random.default_rng(seed).integers(0, 65536, (count, 3, 16, 16)).astype(np.uint16)
    levels = tuple(ImageLevels(255, row, 200 + row, "dark" if row else "") for row in range(count))
    return cache.Entry(values, levels, bad or {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of an entry that is not there yet, nor is its folder."""
    return tmp_path / "cache" / "deep" / "0123.npy"


# --- names


def test_a_digest_depends_on_the_content_only(tmp_path: Path) -> None:
    first, other = tmp_path / "a.png", tmp_path / "b.png"
    first.write_bytes(b"content")
    before = cache.digest(first)
    assert before is not None
    os.utime(first, (1, 1))
    shutil.move(first, other)
    assert cache.digest(other) == before
    facts = other.stat()
    other.write_bytes(b"kontent")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert cache.digest(other) != before
    assert cache.digest(first) is None
    assert cache.digest(tmp_path) is None


def test_the_entry_name_depends_on_all_that_changes_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = b"a" * 16, b"b" * 16
    first = cache.entry_path(tmp_path, [a, b], S16, 1000)
    assert first is not None and first.parent == tmp_path
    assert cache.entry_path(tmp_path, iter([a, b]), S16, 1000) == first
    names = {
        first,
        cache.entry_path(tmp_path, [b, a], S16, 1000),
        cache.entry_path(tmp_path, [a], S16, 1000),
        cache.entry_path(tmp_path, [a, b], S24, 1000),
        cache.entry_path(tmp_path, [a, b], Framing(16, 24), 1000),
        cache.entry_path(tmp_path, [a, b], Framing.square(16, pad=True), 1000),
        cache.entry_path(tmp_path, [a, b], S16, 1001),
    }
    monkeypatch.setattr(PIL, "__version__", "0.1")
    names.add(cache.entry_path(tmp_path, [a, b], S16, 1000))
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    names.add(cache.entry_path(tmp_path, [a, b], S16, 1000))
    assert len(names) == 9
    assert cache.entry_path(tmp_path, [a, None], S16, 1000) is None


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVRAD_CACHE", str(tmp_path / "named"))
    assert cache.default_folder() == tmp_path / "named"
    monkeypatch.delenv("ADVRAD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache.default_folder() == tmp_path / ".cache" / "advrad"

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache.default_folder() is None


# --- entries


def test_an_entry_is_read_back_and_is_read_only(path: Path) -> None:
    made = entry(bad={1: "is empty", 4: "holds text"})
    assert cache.read_entry(path, 6, S16) is None
    cache.write_entry(path, made)
    taken = cache.read_entry(path, 6, S16)
    assert taken is not None
    np.testing.assert_array_equal(taken.values, made.values)
    assert isinstance(taken.values, np.memmap) and not taken.values.flags.writeable
    assert taken.bad == made.bad and taken.levels == made.levels
    # Entries of another shape are refused.
    assert cache.read_entry(path, 5, S16) is None
    assert cache.read_entry(path, 6, S24) is None


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-7] ^= 4
    path.write_bytes(whole)


HARMS: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flip": flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an array"),
    "levels": lambda path: path.with_suffix(".json").write_text(
        json.dumps(json.loads(path.with_suffix(".json").read_text()) | {"levels": [[255, 0, 9, ""]]})
    ),
    "json": lambda path: path.with_suffix(".json").write_text('{"bad": 3}'),
    "nojson": lambda path: path.with_suffix(".json").unlink(),
    "other": lambda path: np.save(path, entry(3).values),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_entry_is_ignored_and_can_be_rewritten(path: Path, harm: str) -> None:
    made = entry()
    cache.write_entry(path, made)
    HARMS[harm](path)
    assert cache.read_entry(path, 4, S16) is None
    cache.write_entry(path, made)
    again = cache.read_entry(path, 4, S16)
    assert again is not None
    np.testing.assert_array_equal(again.values, made.values)
    assert sorted(path.parent.iterdir()) == [path.with_suffix(".json"), path]


def test_a_full_disk_leaves_no_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        cache.write_entry(path, entry())
    assert list(path.parent.iterdir()) == []


def test_the_least_recently_used_entries_are_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (path.with_name(f"{name}.npy") for name in ("first", "second", "third"))
    monkeypatch.setattr(cache, "LIMIT_BYTES", 2 * (4 * 3 * 16 * 16 * 2 + 128))
    for age, place in enumerate((first, second)):
        cache.write_entry(place, entry(seed=age))
        os.utime(place, (1000 + age, 1000 + age))
    assert cache.read_entry(first, 4, S16) is not None  # used again, so the second is now the oldest
    mapped = cache.read_entry(second, 4, S16)
    assert mapped is not None
    os.utime(second, (1001, 1001))
    stale, fresh = path.with_name(".0123.part.npy"), path.with_name(".4567.part.npy")
    for part in (stale, fresh):
        part.write_text("of a run that crashed, or of one that is still writing")
    os.utime(stale, (1, 1))
    cache.write_entry(third, entry(seed=3))
    kept = {first, third}
    assert set(path.parent.iterdir()) == {fresh, *kept, *(place.with_suffix(".json") for place in kept)}
    # Mapped pixels stay readable after their file is deleted.
    np.testing.assert_array_equal(mapped.values, entry(seed=1).values)
    monkeypatch.setattr(cache, "LIMIT_BYTES", 1)
    cache.write_entry(second, entry(seed=1))
    assert list(path.parent.glob("[!.]*.npy")) == [second]
