"""Written images are read back unchanged, and failed writes leave no files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageFile

from advrad.data import images as images
from advrad.data.png import to_levels, write_image
from advrad.errors import OutputError


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_written_is_read_back(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(0).random((20, 24))
    write_image(tmp_path / "a.png", values, bits)
    got = images.read_image(tmp_path / "a.png")[:, :, 0]
    assert np.abs(got - values).max() <= 0.5 / (2**bits - 1) + 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_colour_of_16_bits_is_written_in_full(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20, 24, 3))
    write_image(tmp_path / "a.png", values, 16)
    levels = to_levels(values, 16)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), levels >> 8)  # Pillow reads the upper half of the bits
    np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), levels)
    assert images.examine(tmp_path / "a.png").kind == "16-bit colour"
    assert np.abs(images.read_image(tmp_path / "a.png") - values).max() <= 0.5 / 65535 + 1e-6


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["turned", "reversed", "part"])
def test_arrays_of_any_layout_in_memory_are_written(tmp_path: Path, kind: str, bits: int) -> None:
    values = np.random.default_rng(0).random((3, 40, 48)).transpose(2, 1, 0)
    values = {"turned": values, "reversed": values[::-1, ::-1], "part": values[4:40:2, 3:]}[kind]
    write_image(tmp_path / "a.png", values, bits)
    found = imagecodecs.png_decode((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(found, to_levels(values, bits))


def test_write_image_colour_bool_and_clipping(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
    write_image(tmp_path / "a.png", colour)
    assert np.abs(images.read_image(tmp_path / "a.png") - colour).max() < 0.003
    write_image(tmp_path / "a.png", np.full((20, 20), 7.0))
    assert images.read_image(tmp_path / "a.png").min() == 1
    write_image(tmp_path / "a.png", np.eye(20, dtype=bool))
    np.testing.assert_array_equal(images.read_mask(tmp_path / "a.png"), np.eye(20, dtype=bool))


def test_levels_are_rounded_and_clipped() -> None:
    values = np.array([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 9.0])
    assert to_levels(values).tolist() == [0, 0, 0, 1, 255, 255]
    assert to_levels(values, 16).tolist() == [0, 0, 128, 129, 65535, 65535]
    assert to_levels(values).dtype == np.uint8 and to_levels(values, 16).dtype == np.uint16


def test_write_image_refuses(tmp_path: Path) -> None:
    grey = np.zeros((20, 20))
    for array, name, bits in [
        (np.zeros((3, 20, 20)), "a.png", 8),
        (np.zeros((0, 20)), "a.png", 8),
        (np.full((2, 2), np.nan), "a.png", 8),
        (grey, "a.png", 4),
        (grey, "a.jpg", 8),
    ]:
        with pytest.raises(ValueError):
            write_image(tmp_path / name, array, bits)
    with pytest.raises(OutputError, match="folder is missing"):
        write_image(tmp_path / "none" / "a.png", grey)
    assert list(tmp_path.iterdir()) == []


def test_write_image_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: the disk is full"):
        write_image(tmp_path / "a.png", np.zeros((20, 20)))
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_a_png_is_read_without_its_pixels_unless_its_rotation_stands_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = Image.Exif()
    rotation[0x0112] = 6
    plain, first, last = (tmp_path / name for name in ("plain.png", "first.png", "last.png"))
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    image.save(plain)
    image.save(first, exif=rotation)
    content, kind = plain.read_bytes(), b"eXIf" + rotation.tobytes()[len(b"Exif\0\0") :]
    chunk = struct.pack(">I", len(kind) - 4) + kind + struct.pack(">I", zlib.crc32(kind))
    last.write_bytes(content[:-12] + chunk + content[-12:])
    sides = [(info.width_px, info.height_px) for info in map(images.examine, (plain, first, last))]
    assert sides == [(30, 20), (20, 30), (20, 30)]
    decoded: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    images.examine(plain)
    images.examine(first)
    assert not decoded
    images.examine(last)
    assert decoded
