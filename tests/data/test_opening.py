"""HEIC, AVIF and raw files of cameras: read, or refused with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from advrad.data import images as reading
from advrad.errors import ImageError

Y, X = np.mgrid[:48, :64]
SMOOTH = np.stack([60 + X, 200 - Y, 90 + X // 2 + Y], axis=2).astype(np.uint8)


def test_heic_is_read(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / "a.heic"
    Image.fromarray(SMOOTH).save(path, quality=95)
    got, info = reading.read_and_examine(path)
    np.testing.assert_allclose(got, SMOOTH / 255, atol=0.06)
    assert (info.width_px, info.height_px, info.kind) == (64, 48, "8-bit colour")
    assert reading.examine(path) == info


def test_heic_without_the_extra_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(200)))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path; from advrad.data import read_image; from advrad.errors import ImageError\n"
        "try: read_image(Path(sys.argv[1]))\n"
        "except ImageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip() == f"{path}: is HEIC, which needs another package; install it: pip install 'advrad[heif]'"
    )


def test_avif(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    if not features.check("avif"):
        path.write_bytes(b"\0\0\0\x1cftypavif" + bytes(range(200)))
        with pytest.raises(ImageError, match=r"pillow>=11\.3"):
            reading.read_image(path)
        return
    Image.fromarray(SMOOTH).save(path, quality=95)
    np.testing.assert_allclose(reading.read_image(path), SMOOTH / 255, atol=0.06)


def test_raw_files_of_cameras_must_be_developed(tmp_path: Path) -> None:
    starts = {
        "a.cr2": b"II*\0\x10\0\0\0CR\2\0" + bytes(60),
        "b.cr3": b"\0\0\0\x18ftypcrx " + bytes(range(1, 99)),
        "c.raf": b"FUJIFILMCCD-RAW 0201" + bytes(range(1, 99)),
        "d.arw": b"II*\0" + bytes(range(1, 99)),
        "e.rw2": b"IIU\0" + bytes(range(1, 99)),
    }
    for name, content in starts.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match="raw file of a camera, without colours yet; develop it"):
            reading.read_image(tmp_path / name)
    # What such a name holds counts.
    Image.fromarray(SMOOTH).save(tmp_path / "f.dng", "PNG")
    assert reading.read_image(tmp_path / "f.dng").shape == (48, 64, 3)


def test_nothing_is_printed_about_odd_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(SMOOTH).save(path)
    whole = path.read_bytes()
    for at in range(4, 120, 3):
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        try:
            reading.read_image(path, 10_000)
        except ImageError as error:
            assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", ["ICO", "EPS", "ICNS"])
def test_formats_whose_header_bounds_nothing_are_no_images(tmp_path: Path, format: str) -> None:
    """An icon holds an image of any size behind a header that says another; EPS runs a program."""
    path = tmp_path / "a.png"
    Image.fromarray(SMOOTH).resize((64, 64)).save(path, format)
    with pytest.raises(ImageError, match="not an image"):
        reading.read_image(path)
