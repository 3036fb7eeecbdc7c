"""From the content of an image file to facts and images: as predict says it, and no harm from what is no image."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import guarded_run
import numpy as np
import pytest
import toy_export_product
from PIL import Image
from toy_bounds import Brightest, ToyConfig, Unbounded
from toy_service import picture

from advrad.data.framing import Framing
from advrad.data.images import read_image, read_resized
from advrad.data.picture_statistics import picture_statistics
from advrad.data.png import write_image
from advrad.detectors.exported_config import FramingRecord
from advrad.detectors.loading import load_detector
from advrad.errors import ImageError
from advrad.inference.judging import ImageJudge, LoadedImage
from advrad.inference.prediction import PredictionRecord, predict_paths
from advrad.serving import judging
from advrad.serving.errors import StoreUnavailable
from advrad.serving.judging import (
    decide_all,
    details_of,
    draw_artefacts,
    read_picture,
    shown_name,
    statistics_of,
)


class PaddedToy(ToyConfig):
    """The toy for images that keep their aspect ratio."""

    pad: bool = False

    @property
    def framing(self) -> Framing:
        return Framing.square(self.image_size_px, pad=self.pad)


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which is empty in the end."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def image_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


# --- Reading ---


def test_the_content_is_read_as_the_file_is(spool: Path, tmp_path: Path) -> None:
    judge = ImageJudge(Brightest())
    content = picture(200, size=48)
    (tmp_path / "part.png").write_bytes(content)
    by_file = judge.read(tmp_path / "part.png", keep_full=True)
    loaded = read_picture(judge, content, "line 1/part.png", keep_full=True)
    assert (loaded.scored == by_file.scored).all() and (loaded.full == by_file.full).all()  # type: ignore[union-attr]
    assert (loaded.path, loaded.height_px, loaded.width_px) == (Path("line 1/part.png"), 48, 48)
    assert read_picture(judge, content).full is None


def test_a_raw_file_of_a_camera_is_refused_by_its_name() -> None:
    with pytest.raises(ImageError, match="raw"):
        read_picture(ImageJudge(Brightest()), picture(format="TIFF"), "camera.nef")


def test_errors_name_the_image_and_not_where_it_lay(spool: Path) -> None:
    judge = ImageJudge(Brightest())
    for content, reason in ((b"", "is empty"), (b"hello", "holds text"), (picture()[:100], "cut short|damaged")):
        with pytest.raises(ImageError, match=reason) as caught:
            read_picture(judge, content, "p\n1.png")
        assert str(caught.value).startswith("p?1.png: ") and str(spool) not in str(caught.value)
    with pytest.raises(ImageError, match=r"^the image: is empty"):
        read_picture(judge, b"")
    assert shown_name("a\tb\u202e") == "a?b?" and len(shown_name("x" * 999)) == 200


def test_a_full_disk_is_not_the_image_s_fault(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(StoreUnavailable, match="the disk is full") as caught:
        read_picture(ImageJudge(Brightest()), picture())
    assert caught.value.fix == "free some space or write elsewhere"


# --- What is no image, or worse ---


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    """A grey PNG of any size in its header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


HOSTILE = {
    "65,000 px square": _png(65_000, 65_000),
    "a bomb": _png(3000, 3000, bytes(9_003_000)),
    "a line": _png(900_000, 1, bytes(900_001)),
    "more data than pixels": _png(32, 32, bytes(50_000_000)),
    "an icon": (lambda file: (Image.new("RGB", (64, 64)).save(file, "ICO"), file.getvalue())[1])(io.BytesIO()),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(id) system\nshowpage\n%%EOF\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>alert(1)</script></svg>',
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "a zip": b"PK\x03\x04" + bytes(60),
    "two frames": (
        lambda file: (
            Image.new("L", (32, 32)).save(file, "GIF", save_all=True, append_images=[Image.new("L", (32, 32), 9)]),
            file.getvalue(),
        )[1]
    )(io.BytesIO()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_must_not_be_judged_is_refused(name: str, spool: Path) -> None:
    judge = ImageJudge(Brightest(), max_pixels=1_000_000)
    if name == "more data than pixels":  # a decoder may stop at the last pixel
        assert read_picture(judge, HOSTILE[name]).height_px == 32
        return
    with pytest.raises(ImageError) as caught:
        read_picture(judge, HOSTILE[name], "part.png")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"])
def test_mutated_files_are_judged_or_refused_and_nothing_else(format: str, spool: Path) -> None:
    """Whatever is in the file, its header stays within the limit or it is refused before it is decoded."""
    judge = ImageJudge(Brightest(), max_pixels=100_000)
    whole = np.frombuffer(picture(200, format=format), dtype=np.uint8)
    draws = np.random.default_rng(sum(map(ord, format)))
    judged = 0
    for _ in range(60):
        content = whole.copy()
        places = draws.integers(0, len(content), draws.integers(1, 6))
        if draws.random() < 0.5:  # headers decide most
            places = draws.integers(0, min(64, len(content)), draws.integers(1, 4))
        content[places] = draws.integers(0, 256, len(places))
        if draws.random() < 0.2:
            content = content[: draws.integers(0, len(content))]
        try:
            image = read_picture(judge, content.tobytes(), "part")
        except ImageError as error:
            assert "\n" not in str(error) and str(spool) not in str(error)
            continue
        assert image.height_px * image.width_px <= 100_000
        [found] = decide_all(judge, [image], None)
        assert 0 <= found.prediction.score <= 1  # type: ignore[union-attr]
        judged += 1
    assert judged < 60, "some were damaged"


# --- Facts ---


@pytest.mark.parametrize("kind", ["guarded", "exported guarded"])
def test_facts_are_those_of_predict(kind: str, tmp_path: Path) -> None:
    if kind == "guarded":
        detector = load_detector(guarded_run.write(tmp_path / "run", tmp_path / "half.py"))
        paths = sorted(guarded_run.write_product(tmp_path / "product").rglob("test/*/000.png"))
    else:
        detector = toy_export_product.load(tmp_path, guarded=True).judge.detector
        paths = [tmp_path / f"{level}.png" for level in (90, 250)]
        for path in paths:
            path.write_bytes(picture(int(path.stem)))
    judge = ImageJudge(detector)
    for said in predict_paths(detector, paths):
        assert isinstance(said, PredictionRecord)
        [judged] = decide_all(judge, [read_picture(judge, said.path.read_bytes(), said.path.name)], None)
        details = json.loads(json.dumps(details_of(judged), allow_nan=False))  # type: ignore[arg-type]
        wanted = said.to_dict()
        assert details["halves"] == json.loads(json.dumps(wanted["halves"]))
        assert judged.prediction.verdict == said.verdict  # type: ignore[union-attr]
        assert judged.prediction.score == said.score  # type: ignore[union-attr]


@pytest.mark.parametrize("pad", [False, True])
def test_statistics_are_those_of_the_working_image_as_in_the_calibration(tmp_path: Path, pad: bool) -> None:
    """An export takes images at their own size; what is compared with the calibration has the working size."""
    record = FramingRecord(height_px=32, width_px=32, pad=pad)
    export = toy_export_product.load(tmp_path, framing_record=record).judge
    folder = ImageJudge(Brightest(PaddedToy(pad=pad)))
    values = np.random.default_rng(3).integers(0, 200, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "part.png")
    wanted = picture_statistics(read_resized(tmp_path / "part.png", Framing.square(32, pad=pad)))
    for judge in (folder, export):
        found = statistics_of(judge, read_picture(judge, (tmp_path / "part.png").read_bytes()))
        assert found.brightness == pytest.approx(wanted.brightness, abs=1e-6)
        assert found.sharpness == pytest.approx(wanted.sharpness, abs=1e-6)


# --- Drawing ---


def drawn(judge: ImageJudge, content: bytes, *names: str) -> tuple[LoadedImage, dict[str, np.ndarray]]:
    image = read_picture(judge, content, keep_full=True)
    [judged] = decide_all(judge, [image], None)
    found = draw_artefacts(judge, judged, names)  # type: ignore[arg-type]
    return image, {name: image_of(content) for name, content in found.items()}


def test_a_map_says_in_levels_how_far_it_is_above_normal_maps(tmp_path: Path) -> None:
    """The scale of the toy: 0.3 is the usual maximum of a normal map, and 0.5 the level that they hardly exceed."""
    values = np.full((32, 32, 3), 0.1, dtype=np.float32)
    values[4, 4], values[8, 8], values[12, 12], values[16, 16] = 0.3, 0.5, 0.9, 1.0
    write_image(tmp_path / "part.png", values, bits=16)
    _, found = drawn(ImageJudge(Brightest()), (tmp_path / "part.png").read_bytes(), "map")
    assert found["map"].shape == (32, 32) and found["map"].dtype == np.uint8
    levels = [int(found["map"][place, place]) for place in (0, 4, 8, 12, 16)]
    assert levels == pytest.approx([0, 0, 64, 191, 223], abs=1)


def test_an_overlay_is_the_heat_map_of_predict(tmp_path: Path) -> None:
    content = picture(200)
    (tmp_path / "part.png").write_bytes(content)
    [said] = predict_paths(Unbounded(), [tmp_path / "part.png"], out=tmp_path / "out")
    _, found = drawn(ImageJudge(Unbounded()), content, "overlay", "reconstruction")
    assert isinstance(said, PredictionRecord) and said.heat_map is not None and said.reconstruction is not None
    assert (found["overlay"] == np.rint(read_image(said.heat_map) * 255)).all()
    assert (found["reconstruction"] == np.rint(read_image(said.reconstruction) * 255)).all()


def test_an_overlay_lies_on_the_image_and_has_no_legend(tmp_path: Path) -> None:
    detector = load_detector(guarded_run.write(tmp_path / "run", tmp_path / "half.py"))
    content = (guarded_run.write_product(tmp_path / "product") / "test" / "dent" / "000.png").read_bytes()
    image, found = drawn(ImageJudge(detector), content, "overlay", "map", "reconstruction")
    assert found["overlay"].shape == (image.height_px, image.width_px, 3)
    assert found["map"].max() > 64 > np.median(found["map"]), "a dent is above normal maps"
    assert "reconstruction" not in found, "this detector makes none"


def test_large_images_are_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "DRAWN_PIXELS", 1000)
    image, found = drawn(ImageJudge(Brightest()), picture(200, size=64), "overlay")
    assert image.full is not None and image.full.shape[0] == 64
    assert found["overlay"].shape == (22, 22, 3), "3 px become one"


def test_no_temporary_file_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    judge = ImageJudge(Brightest())
    for _ in range(20):
        read_picture(judge, picture())
        with pytest.raises(ImageError):
            read_picture(judge, b"no image")
    assert not before or len(os.listdir("/proc/self/fd")) <= before
