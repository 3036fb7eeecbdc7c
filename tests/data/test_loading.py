"""Images come from the cache or are decoded again; masks keep small defects."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_datasets
from PIL import Image

from advrad.data import images, loading, splits
from advrad.data.layouts import find_records
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.errors import DataError, ImageError
from advrad.utils.progress import CallbackReporter

SKIP_BAD = DataOptions(skip_bad=True)


# --- loading


@pytest.fixture
def records(tmp_path: Path) -> tuple[Record, ...]:
    return find_records(toy_datasets.make_mvtec(tmp_path / "set", train=6, good=2)).records


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "deep"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images decoded so far."""
    done: list[Path] = []

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        done.append(path)
        return images.read_and_examine(path, *args, **options)

    monkeypatch.setattr(loading, "read_and_examine", counted)
    return done


def test_the_stack_holds_what_read_resized_gives(records: tuple[Record, ...], cache: Path) -> None:
    for place in (cache, cache, False):
        stack = loading.load_images(records, 16, cache_dir=place)  # type: ignore[arg-type]
        assert len(stack) == len(records) == len(stack.values)
        assert stack.records == records
        assert stack.skipped == stack.notes == ()
        assert stack.values.dtype == np.uint16
        assert not stack.values.flags.writeable
        assert isinstance(stack.values, np.memmap) == (place is not False)
        want = torch.stack([images.read_resized(record.path, 16) for record in records])
        got = stack.batch(range(len(records)))
        assert got.dtype == torch.float32
        assert (got - want).abs().max() < 1e-5


def test_batches_by_any_index(records: tuple[Record, ...]) -> None:
    stack = loading.load_images(records, 16, cache_dir=False)
    whole = stack.batch(slice(None))
    for index in ([3, 1, 1], np.array([3, 1, 1]), torch.tensor([3, 1, 1])):
        assert torch.equal(stack.batch(index), whole[[3, 1, 1]])
    assert stack.batch([]).shape == (0, 3, 16, 16)
    stack.batch([0]).zero_()
    assert torch.equal(stack.batch([0]), whole[:1])


def test_white_is_one_and_black_is_zero(tmp_path: Path) -> None:
    Image.new("L", (40, 30), 255).save(tmp_path / "a.png")
    Image.new("L", (40, 30), 0).save(tmp_path / "b.png")
    stack = loading.load_images(
        [Record(tmp_path / name, "test", 0, "good") for name in ("a.png", "b.png")], 16, cache_dir=False
    )
    assert torch.equal(stack.batch([0, 1]), torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 3, 16, 16))


def test_the_cache_is_used_and_follows_the_content(
    tmp_path: Path, records: tuple[Record, ...], cache: Path, decodings: list[Path]
) -> None:
    n = len(records)

    def load(wanted: tuple[Record, ...] = records, size_px: int = 16) -> np.ndarray:
        return np.array(loading.load_images(wanted, size_px, cache_dir=cache).values)

    first = load()
    assert len(decodings) == n
    np.testing.assert_array_equal(load(), first)
    assert len(decodings) == n
    # Touched or moved files are not decoded again.
    os.utime(records[0].path, (1, 1))
    load()
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "set", moved)
    load(tuple(replace(r, path=moved / r.path.relative_to(tmp_path / "set")) for r in records))
    assert len(decodings) == n
    # Another content, order or size is another entry.
    np.testing.assert_array_equal(load(records[::-1]), first[::-1])
    assert len(decodings) == 2 * n
    load(size_px=24)
    assert len(decodings) == 3 * n
    before = os.stat(records[0].path)
    toy_datasets.write_good(records[0].path, seed=99)
    os.utime(records[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = load()
    assert len(decodings) == 4 * n
    assert not np.array_equal(changed[0], first[0])
    np.testing.assert_array_equal(changed[1:], first[1:])


def test_a_damaged_entry_is_rewritten(records: tuple[Record, ...], cache: Path, decodings: list[Path]) -> None:
    first = np.array(loading.load_images(records, 16, cache_dir=cache).values)
    (entry,) = cache.glob("*.npy")
    entry.write_bytes(entry.read_bytes()[:-100])
    for _ in range(2):
        np.testing.assert_array_equal(loading.load_images(records, 16, cache_dir=cache).values, first)
        assert len(decodings) == 2 * len(records)


def test_the_environment_names_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: tuple[Record, ...]
) -> None:
    monkeypatch.setenv("ADVRAD_CACHE", str(tmp_path / "named"))
    loading.load_images(records, 16)
    assert len(list((tmp_path / "named").glob("*.npy"))) == 1


def test_without_a_home_folder_nothing_is_cached(monkeypatch: pytest.MonkeyPatch, records: tuple[Record, ...]) -> None:
    monkeypatch.setattr("advrad.data.cache.default_folder", lambda: None)
    stack = loading.load_images(records, 16)
    assert len(stack) == len(records)
    assert not isinstance(stack.values, np.memmap)


def test_a_full_disk_is_only_noted(records: tuple[Record, ...], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    stack = loading.load_images(records, 16, cache_dir=cache)
    assert len(stack) == len(records)
    assert "not kept for the next run" in stack.notes[0]
    assert "the disk is full" in stack.notes[0]
    assert list(cache.iterdir()) == []


def test_a_cache_that_is_a_file(records: tuple[Record, ...], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    stack = loading.load_images(records, 16, cache_dir=tmp_path / "taken")
    assert len(stack) == len(records)
    assert str(tmp_path / "taken") in stack.notes[0]


def test_broken_images_are_named_or_skipped(records: tuple[Record, ...], cache: Path, decodings: list[Path]) -> None:
    records[2].path.write_text("no image")
    records[5].path.write_bytes(records[5].path.read_bytes()[:200])
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        with pytest.raises(ImageError, match="holds text") as caught:
            loading.load_images(records, 16, cache_dir=cache)
        assert caught.value.path == records[2].path
    decodings.clear()
    for _ in range(2):
        stack = loading.load_images(
            records,
            16,
            SKIP_BAD,
            cache_dir=cache,
            progress=CallbackReporter(lambda done, total: seen.append((done, total))),
        )
        assert [error.path for error in stack.skipped] == [records[2].path, records[5].path]
        assert stack.records == tuple(r for i, r in enumerate(records) if i not in (2, 5))
        want = torch.stack([images.read_resized(record.path, 16) for record in stack.records])
        assert (stack.batch(slice(None)) - want).abs().max() < 1e-5
    assert len(decodings) == len(records)
    n = len(records)
    assert seen == [*((i + 1, n) for i in range(n)), (n, n)]
    # Without skip_bad, files known to be broken are still errors.
    with pytest.raises(ImageError, match="holds text"):
        loading.load_images(records, 16, cache_dir=cache)


def test_a_missing_file_is_not_cached(records: tuple[Record, ...], cache: Path) -> None:
    whole = records[0].path.read_bytes()
    records[0].path.unlink()
    stack = loading.load_images(records, 16, SKIP_BAD, cache_dir=cache)
    assert [error.reason for error in stack.skipped] == ["there is no such file"]
    assert not cache.exists()
    records[0].path.write_bytes(whole)
    assert len(loading.load_images(records, 16, cache_dir=cache)) == len(records)


def test_nothing_to_load(records: tuple[Record, ...]) -> None:
    with pytest.raises(DataError, match="the list is empty"):
        loading.load_images([], 16)
    for record in records:
        record.path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 11 images can be read.*0 bytes"):
        loading.load_images(records, 16, SKIP_BAD, cache_dir=False)


def test_mixed_sizes_and_kinds_become_one_size(tmp_path: Path) -> None:
    images = {
        "a.png": Image.new("L", (100, 40), 51),
        "b.jpg": Image.new("CMYK", (33, 77)),
        "c.png": Image.fromarray(np.full((20, 20), 13107, np.uint16)),
        "d.png": Image.new("RGBA", (16, 300), (51, 51, 51, 255)),
        "e.gif": Image.new("P", (64, 64)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    stack = loading.load_images([Record(tmp_path / name, "test", 0, "good") for name in images], 32, cache_dir=False)
    values = stack.batch(slice(None))
    assert values.shape == (5, 3, 32, 32)
    for i in (0, 2, 3):
        assert (values[i] - 0.2).abs().max() < 1e-5


# --- masks


def test_masks_at_the_working_size(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path, train=2, good=1, defects={"scratch": 3}, size=64)
    (base / "ground_truth" / "scratch" / "001_mask.png").unlink()
    Image.new("L", (64, 64)).save(base / "ground_truth" / "scratch" / "002_mask.png")
    test = [record for record in find_records(base).records if record.split == "test"]
    masks, known = loading.load_masks(test, 32)
    assert masks.shape == (4, 32, 32)
    assert masks.dtype == known.dtype == np.bool_
    assert known.tolist() == [True, True, False, True]
    assert masks.any(axis=(1, 2)).tolist() == [False, True, False, False]
    assert abs(masks[1].mean() - 1 / 16) < 0.02


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_no_defect_vanishes_or_grows_much(width: int) -> None:
    mask = np.zeros((256, 256), bool)
    mask[:, 101 : 101 + width] = True
    small = loading._shrunk(mask, 32)
    assert small.any(axis=1).all()
    assert small.any(axis=0).sum() <= np.ceil(width / 8) + 1
    assert not loading._shrunk(np.zeros((50, 60), bool), 32).any()
    assert loading._shrunk(np.ones((50, 60), bool), 32).all()
    assert loading._shrunk(np.eye(16, dtype=bool), 32).sum() == 64


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    base = toy_datasets.make_mvtec(tmp_path, train=2, good=0, defects={"scratch": 2})
    wrong = base / "ground_truth" / "scratch" / "001_mask.png"
    Image.new("L", (30, 20)).save(wrong)
    test = [record for record in find_records(base).records if record.label]
    with pytest.raises(ImageError, match=r"is 30 x 20 px, but its image 001.png is 32 x 32 px") as caught:
        loading.load_masks(test, 16)
    assert caught.value.path == wrong
    assert loading.load_masks(test, 16, SKIP_BAD)[1].tolist() == [True, False]
    wrong.write_bytes(b"")
    with pytest.raises(ImageError, match="0 bytes"):
        loading.load_masks(test, 16)


def test_the_mask_of_a_rotated_image(tmp_path: Path) -> None:
    note = Image.Exif()
    note[0x0112] = 6
    Image.new("L", (60, 40)).save(tmp_path / "a.jpg", exif=note)
    Image.new("L", (40, 60)).save(tmp_path / "m.png")
    record = Record(tmp_path / "a.jpg", "test", 1, "rust", tmp_path / "m.png")
    assert loading.load_masks([record], 16)[1].tolist() == [True]


# --- real images


@pytest.mark.real
def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    found = find_records(shared_data / "mvtec_ad" / "toothbrush")
    stack = loading.load_images(found.records, 64, cache_dir=tmp_path)
    assert stack.values.shape == (90, 3, 64, 64)
    values = stack.batch(slice(None))
    assert 0.05 < values.mean() < 0.95
    masks, known = loading.load_masks(stack.records, 64)
    assert known.all()
    assert masks.any(axis=(1, 2)).sum() == 30
    split = splits.split_normals(found.records, 0)
    assert [len(split.train), len(split.selection), len(split.calibration)] == [24, 5, 19]


@pytest.mark.real
def test_real_masks_of_tiles(shared_data: Path) -> None:
    found = find_records(shared_data / "mtd" / "magnetic_tile")
    cracks = [record for record in found.records if record.defect == "crack"]
    masks, known = loading.load_masks(cracks, 64)
    assert known.all()
    # Thin cracks survive; a mask may be empty in the file itself.
    empty = [not images.read_mask(record.mask).any() for record in cracks if record.mask]
    assert (~masks.any(axis=(1, 2))).tolist() == empty
