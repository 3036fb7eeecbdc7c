"""Images are known by their first bytes where their endings say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from advrad.data.signatures import holds_image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "MPO")


@pytest.mark.parametrize("name", ["scan", "part.png_", "part.tiff~", "part.001", "part.unknown"])
@pytest.mark.parametrize("kind", FORMATS)
def test_images_of_any_name_are_known(kind: str, name: str, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (90, 120, 60)).save(tmp_path / name, format=kind)
    assert holds_image(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"BM", b"BMW is a maker of cars", b"P1 is the first part", b"RIFF....WAVE", b"{}", bytes(64), b"%PDF-1.7"],
)
def test_other_files_are_not(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not holds_image(tmp_path / "file")


def test_heic_and_avif_are_known(tmp_path: Path) -> None:
    for brand in (b"heic", b"mif1", b"avif"):
        (tmp_path / "photo").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(12))
        assert holds_image(tmp_path / "photo")


def test_raw_files_and_unfinished_downloads_are_not(tmp_path: Path) -> None:
    """A raw file begins like a TIFF, whose first image is a small preview."""
    for name in ("part.dng", "part.NEF", "part.tiff.part", "part.png.crdownload"):
        Image.new("RGB", (20, 20)).save(tmp_path / name, format="TIFF")
        assert not holds_image(tmp_path / name)


def test_folders_and_missing_files_are_not(tmp_path: Path) -> None:
    assert not holds_image(tmp_path) and not holds_image(tmp_path / "none")
