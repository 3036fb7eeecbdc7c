"""Half-written files are found, and whole ones with black parts are not taken for such."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from advrad.data import images as reading
from advrad.data.completeness import check_end
from advrad.data.png import write_image
from advrad.errors import ImageError

FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("GIF", {}),
    ("WEBP", {"quality": 80}),
    ("WEBP", {"lossless": True}),
    ("JPEG2000", {}),
    ("JPEG2000", {"irreversible": True}),
    ("AVIF", {}),
    ("HEIF", {}),
    ("TGA", {}),
    ("PCX", {}),
    ("PPM", {}),
    ("BMP", {}),
    ("DIB", {}),
]


def camera_image(seed: int = 0, shape: tuple[int, ...] = (120, 150, 3)) -> npt.NDArray[np.uint8]:
    """Texture and noise without true black."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(60, 180, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (rows + rng.normal(0, 12, shape)).clip(5, 250).astype(np.uint8)


def encoded(values: npt.NDArray[Any], format: str, options: dict[str, Any]) -> bytes:
    if format == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.register_heif_opener()
    if format == "AVIF":
        from PIL import features

        if not features.check("avif"):
            pytest.skip("this version of Pillow does not write AVIF")
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format, **options)
    return buffer.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        reading.read_image(path)
    return caught.value.reason


@pytest.mark.parametrize(("format", "options"), FORMATS, ids=lambda value: str(value))
@pytest.mark.parametrize("grey", [False, True])
def test_a_tail_of_zeros_is_refused(tmp_path: Path, format: str, options: dict[str, Any], grey: bool) -> None:
    path = tmp_path / "a.img"
    values = camera_image()
    whole = encoded(values[:, :, 0] if grey else values, format, options)
    path.write_bytes(whole)
    assert reading.read_image(path).shape == (120, 150, 3)
    for share in (0.2, 0.41, 0.5, 0.66, 0.85):
        kept = int(len(whole) * share)
        path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
        reason = refused(path)
        assert any(word in reason for word in ("half-written", "truncated", "damaged", "not an image")), reason
    path.write_bytes(bytes(len(whole)))
    assert "nothing but zero bytes" in refused(path)


@pytest.mark.parametrize("block", [512, 4096])
@pytest.mark.parametrize("kind", ["bmp", "pgm", "tif"])
def test_a_copy_that_ends_with_a_block(tmp_path: Path, block: int, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(camera_image(shape=(130, 173))).save(path)
    whole = path.read_bytes()
    for count in range(-(-1600 // block), len(whole) // block - 1, 3):
        path.write_bytes(whole[: count * block].ljust(len(whole), b"\0"))
        assert "half-written" in refused(path)


def test_zeros_after_the_end_mark_are_fine(tmp_path: Path) -> None:
    values = camera_image()
    for format in ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "HEIF"):
        path = tmp_path / f"{format}.img"
        path.write_bytes(encoded(values, format, {}) + bytes(5000))
        assert reading.read_image(path).shape == values.shape
    # A JPEG with a small picture and zeros in its header.
    exif = Image.Exif()
    exif[0x9286] = "\0" * 500
    Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif)
    assert reading.read_image(tmp_path / "a.jpg").shape == values.shape


def black_images() -> dict[str, npt.NDArray[np.uint8]]:
    """Whole images that end in black rows, or begin with them."""
    y, x = np.mgrid[:120, :150]
    values = camera_image()
    disc, corners, edge, band, silhouette = (values.copy() for _ in range(5))
    disc[(y - 60) ** 2 + (x - 75) ** 2 > 45**2] = 0
    corners[(y - 60) ** 2 + (x - 75) ** 2 > 70**2] = 0  # the round field of a microscope
    edge[np.abs(y - 60) * 6 > 240 + x] = 0  # a slanted edge over a black belt
    band[:20] = band[-20:] = 0
    silhouette[(y < 30) | (y > 90) | (x < 20)] = 0
    dark = np.random.default_rng(3).poisson(0.7, values.shape).astype(np.uint8)
    dark[40:80] += 120
    return {
        "disc": disc,
        "corners": corners,
        "edge": edge,
        "band": band,
        "silhouette": silhouette,
        "dark": dark,
        "one bright pixel": np.where((y == 60) & (x == 75), 255, 0).astype(np.uint8)[..., None].repeat(3, 2),
        "black": np.zeros_like(values),
    }


@pytest.mark.parametrize("name", black_images())
@pytest.mark.parametrize("ending", ["bmp", "ppm", "tif", "tga", "png", "webp"])
def test_black_parts_are_read(tmp_path: Path, name: str, ending: str) -> None:
    values = black_images()[name]
    path = tmp_path / f"a.{ending}"
    Image.fromarray(values).save(path, **({"lossless": True} if ending == "webp" else {}))
    got, info = reading.read_and_examine(path)
    np.testing.assert_array_equal(got, values / np.float32(255))
    assert info.levels is not None
    assert not info.levels.doubt or name in ("band", "black")


def test_whole_rows_of_zeros_are_read_and_doubted(tmp_path: Path) -> None:
    values = camera_image(shape=(128, 128))
    values[:40] = values[-40:] = 0
    values[60:68] = 0
    for ending, rows in (("bmp", slice(0, 40)), ("pgm", slice(-40, None)), ("tif", slice(-40, None))):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(values).save(path)
        levels = reading.read_and_examine(path)[1].levels
        assert levels is not None and "black there or half-written" in levels.doubt
        other = values.copy()
        other[rows] = 9
        Image.fromarray(other).save(path)
        levels = reading.read_and_examine(path)[1].levels
        assert levels is not None and not levels.doubt


def test_masks_are_not_taken_for_half_written(tmp_path: Path) -> None:
    marked = np.zeros((64, 64), bool)
    marked[:20] = True
    marked[20, :30] = True  # as if the copy had broken off
    for ending in ("bmp", "pgm", "tif", "png"):
        path = tmp_path / f"m.{ending}"
        Image.fromarray(marked.astype(np.uint8) * 255).save(path)
        np.testing.assert_array_equal(reading.read_mask(path), marked)
    jpeg = tmp_path / "m.jpg"
    Image.fromarray(camera_image()).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:3000].ljust(6000, b"\0"))
    with pytest.raises(ImageError, match="half-written"):
        reading.read_mask(jpeg)


def test_check_end_counts_zeros_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"BM" + b"\1" * 100 + bytes(200_000))
    assert check_end(path) == 102
    path.write_bytes(b"BM" + b"\1" * 100 + bytes(20))
    assert check_end(path) is None


def test_a_written_png_has_an_end(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((40, 50, 3)), 16)
    assert reading.read_image(tmp_path / "a.png").max() == 0
