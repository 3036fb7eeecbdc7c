"""Files that are small and would keep a decoder busy for minutes, or need gigabytes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from advrad.data import pieces
from advrad.data.images import examine, read_image
from advrad.errors import ImageError

REASON = "cut into far too many pieces"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 300 pieces be many, so that the files of the tests are small."""
    monkeypatch.setattr(pieces, "_MOST", 300)


def saved(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(file, format, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    with pytest.raises(ImageError):
        examine(path)
    return caught.value.reason


def test_too_many_pieces(tmp_path: Path) -> None:
    png, jpeg, gif = saved("PNG"), saved("JPEG"), saved("GIF")
    text = chunk(b"tEXt", b"a\0b")
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    cases = {
        "text": png[:33] + 400 * text + png[33:],
        "pixels": png[:33] + 400 * chunk(b"IDAT") + png[33:],
        "comments": jpeg[:2] + 400 * b"\xff\xfe\x00\x02" + jpeg[2:],
        "filling": jpeg[:2] + 400 * b"\xff" + jpeg[2:],
        "no markers": jpeg[:2] + 400 * b"\0" + jpeg[2:],
        "frames": gif[:-1] + 400 * frame + b";",
        "blocks": gif[:-1] + b"\x21\xfe" + 400 * b"\x01a" + b"\0;",
    }
    for name, content in cases.items():
        # A comment in one piece makes the rule about sizes plain.
        if name not in ("filling", "no markers"):
            assert REASON in refused(tmp_path / name, content)
        else:
            assert refused(tmp_path / name, content)


def test_scans_of_a_progressive_jpeg(tmp_path: Path) -> None:
    content = saved("JPEG", progressive=True)
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert read_image(path).shape == (64, 64, 3)
    last = content[content.rfind(b"\xff\xda") : -2]
    assert REASON in refused(path, content[:-2] + 60 * last + content[-2:])


def test_many_pieces_of_a_usual_size_are_read(tmp_path: Path) -> None:
    """More than 300 chunks and blocks, each as large as encoders make them."""
    values = np.random.default_rng(0).integers(0, 256, (420, 420), dtype=np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    parts = b"".join(chunk(b"IDAT", data[at : at + 520]) for at in range(0, len(data), 520))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 420, 420, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + parts + chunk(b"IEND"))
    Image.fromarray(values).save(tmp_path / "a.gif")
    for name in ("a.png", "a.gif"):
        assert (read_image(tmp_path / name)[:, :, 0] * 255 == values).all()


def test_tiffs_that_need_far_more_than_their_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, tile=(1024, 1024), compression="zlib")
    assert (read_image(path)[:, :, 0] * 255 == values).all()
    with pytest.raises(ImageError, match="tiles of 1024 x 1024 px"):
        read_image(path, max_pixels=100_000)
    tifffile.imwrite(path, np.zeros((64, 64, 200), np.uint8), photometric="rgb", planarconfig="contig")
    with pytest.raises(ImageError, match="200 channels"):
        read_image(path, max_pixels=100_000)
    with tifffile.TiffWriter(path) as file:
        for _ in range(150):
            file.write(values, subfiletype=1, contiguous=False, metadata=None)
    with pytest.raises(ImageError, match="more than 100 frames"):
        read_image(path)
    tifffile.imwrite(path, values[:, :16].repeat(8, axis=0), rowsperstrip=1, compression="packbits")
    with pytest.raises(ImageError, match=REASON):
        read_image(path)
