"""Masks of unusual kinds mark what their maker marked, or are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from advrad.data.images import read_mask
from advrad.errors import ImageError

WANT = np.zeros((48, 40), bool)
WANT[10:22, 8:30] = True


def palette_mask(index: npt.NDArray[Any], colours: list[int]) -> Image.Image:
    image = Image.frombytes("P", index.shape[::-1], index.astype(np.uint8).tobytes())
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    "colours",
    [
        [255, 255, 255, 255, 0, 0],  # white background, red defect
        [90, 90, 90, 255, 255, 255],
        [0, 0, 0, 128, 0, 0],
        [255, 255, 0, 0, 0, 255, 0, 0, 0],  # black is in the palette, and not used
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_palettes(tmp_path: Path, colours: list[int], ending: str) -> None:
    path = tmp_path / f"m.{ending}"
    palette_mask(WANT, colours + [7] * (768 - len(colours))).save(path)
    np.testing.assert_array_equal(read_mask(path), WANT)


def test_a_palette_in_which_black_is_not_the_first_colour(tmp_path: Path) -> None:
    # As a program that reduces colours writes a black and white mask.
    palette_mask(~WANT, [255, 255, 255, 0, 0, 0] + [0] * 762).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), WANT)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("level", [255, 160])
def test_losses_around_the_edges_are_not_marked(tmp_path: Path, format: str, level: int) -> None:
    options: dict[str, Any] = {"quality": 60} if format != "JPEG2000" else {"irreversible": True, "quality_layers": [8]}
    large = np.roll(np.kron(WANT, np.ones((8, 8), bool)), 3, (0, 1))
    path = tmp_path / "m.img"
    Image.fromarray(large.astype(np.uint8) * level).save(path, format, **options)
    with Image.open(path) as image:
        noisy = np.asarray(image.convert("L"))
    assert ((noisy > 0) != large).any() or format == "AVIF", "without losses this shows nothing"
    assert (read_mask(path) != large).mean() < 0.003


@pytest.mark.parametrize("value", [1, 3, 255])
def test_compression_without_losses_keeps_class_numbers(tmp_path: Path, value: int) -> None:
    image = Image.fromarray(WANT.astype(np.uint8) * value)
    image.save(tmp_path / "m.webp", lossless=True)
    image.save(tmp_path / "m.jp2")
    for ending in ("webp", "jp2"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"m.{ending}"), WANT)
    for compression in ("jpeg2000", "webp"):
        values = np.asarray(image.convert("RGB"))
        arguments = {"lossless": True} if compression == "webp" else None
        tifffile.imwrite(tmp_path / "m.tif", values, compression=compression, compressionargs=arguments)
        np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), WANT)


def test_floats(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    for scale in (1.0, 0.2, 255.0):
        tifffile.imwrite(path, WANT.astype(np.float32) * scale)
        np.testing.assert_array_equal(read_mask(path), WANT)
    for wrong in (np.nan, np.inf, -1.0):
        values = WANT.astype(np.float32)
        values[0, 0] = wrong
        tifffile.imwrite(path, values)
        with pytest.raises(ImageError, match="save the mask as 0 and 255"):
            read_mask(path)


def test_many_bits(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    for kind in (np.uint16, np.int16, np.uint32, np.int32):
        for value in (1, 250, 30000):
            tifffile.imwrite(path, WANT.astype(kind) * kind(value))
            np.testing.assert_array_equal(read_mask(path), WANT)
    tifffile.imwrite(path, (~WANT).astype(np.uint16) * np.uint16(65535), photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(path), WANT)
    Image.fromarray(WANT).save(path, compression="group4")
    np.testing.assert_array_equal(read_mask(path), WANT)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_keeps_small_values(tmp_path: Path, kind: int, channels: int) -> None:
    values = np.repeat(WANT[..., None], channels, axis=2).astype(">u2") * np.uint16(5)
    if kind != 2:
        values[..., -1] = np.where(WANT, 65535, 0)
        values[..., :-1] += np.where(WANT, 0, 900)[..., None].astype(">u2")  # colours that no one sees
    rows = np.concatenate([np.zeros((48, 1), np.uint8), values.reshape(48, -1).astype(">u2").view(np.uint8)], axis=1)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    parts = (
        chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 48, 16, kind, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(rows.tobytes())),
        chunk(b"IEND", b""),
    )
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), WANT)
