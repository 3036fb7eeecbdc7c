"""TIFF files are read as their tags say, and as Pillow reads those that it reads rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiff_files import pack_rows, write_tiff

from advrad.data import images as reading
from advrad.errors import ImageError

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (20, 23), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 23, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 23, 3)).astype(np.uint16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tif"


def by_pillow(path: Path) -> npt.NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")) / 255


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        reading.read_image(path, **options)
    assert "\n" not in str(caught.value) and caught.value.path == path
    return caught.value.reason


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16]),
    white_is_zero=st.booleans(),
    big_endian=st.booleans(),
    colour=st.booleans(),
    width=st.integers(16, 27),
    seed=st.integers(0, 1000),
)
def test_packed_bits_of_every_depth(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    white_is_zero: bool,
    big_endian: bool,
    colour: bool,
    width: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("packed") / "a.tif"
    channels = 3 if colour else 1
    values = np.random.default_rng(seed).integers(0, 2**bits, (17, width, channels))
    data = pack_rows(values.reshape(17, -1), bits)
    if bits == 16 and not big_endian:
        data = values.astype("<u2").tobytes()
    photometric = 2 if colour else 0 if white_is_zero else 1
    order = ">" if big_endian else "<"
    write_tiff(path, data, width, 17, (bits,) * channels, order=order, tags={262: photometric})
    want = values / (2**bits - 1)
    got = reading.read_image(path)
    want = 1 - want if photometric == 0 else want
    # Up to 8 bits, values are rounded to 8.
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=0.51 / 255 if bits < 8 else 1e-6)
    info = reading.examine(path)
    assert info.kind == ("1-bit" if bits == 1 else f"{bits}-bit {'colour' if colour else 'grey'}")
    assert (info.width_px, info.height_px) == (width, 17)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "lzma", "zstd", "jpeg", "jpeg2000", "webp"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "bigtiff", "big endian"])
def test_8_bit_colour_is_what_pillow_reads(path: Path, compression: str | None, layout: str) -> None:
    options: dict[str, Any] = {"compression": compression, "photometric": "rgb"}
    options |= {
        "strips": {"rowsperstrip": 8},
        "tiles": {"tile": (16, 16)},
        "bigtiff": {"bigtiff": True},
        "big endian": {"byteorder": ">"},
    }[layout]
    if compression in ("lzw", "zlib", "zstd"):
        options["predictor"] = True
    if compression == "webp":
        options["compressionargs"] = {"lossless": True}
    y, x = np.mgrid[:32, :32]
    smooth = np.stack([100 + 2 * x, 220 - 3 * y, 50 + x + y], axis=2).astype(np.uint8)
    shown = smooth if compression == "jpeg" else COLOUR
    tifffile.imwrite(path, shown, **options)
    got = reading.read_image(path)
    if compression == "jpeg":
        np.testing.assert_allclose(got, shown / 255, atol=0.03)
    else:
        np.testing.assert_array_equal(got, shown.astype(np.float32) / np.float32(255))
    if compression in (None, "lzw", "zlib", "packbits", "jpeg"):
        np.testing.assert_allclose(got, by_pillow(path), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_what_pillow_writes_is_what_pillow_reads(path: Path, mode: str, compression: str | None) -> None:
    if mode == "I;16":
        image = Image.fromarray(DEEP[:, :, 0])
    elif mode in ("RGBA", "LA"):
        image = Image.fromarray(np.dstack([COLOUR, GREY])).convert(mode)
    else:
        image = Image.fromarray(COLOUR).convert(mode)
    image.save(path, compression=compression)
    got = reading.read_image(path)
    if mode == "I;16":
        np.testing.assert_allclose(got[:, :, 0], DEEP[:, :, 0] / 65535, atol=1e-7)
        return
    image.save(path.with_suffix(".png") if mode != "CMYK" else path)
    np.testing.assert_array_equal(
        got, reading.read_image(path.with_suffix(".png")) if mode != "CMYK" else np.float32(by_pillow(path))
    )


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_compression(path: Path, compression: str) -> None:
    image = Image.fromarray(GREY > 128)
    image.save(path, compression=compression)
    np.testing.assert_array_equal(reading.read_image(path)[:, :, 0], GREY > 128)


def test_ycbcr_without_jpeg_is_left_to_pillow(path: Path) -> None:
    y, x = np.mgrid[:32, :32]
    Image.fromarray(np.stack([4 * x, 200 - 3 * y, 90 + x], 2).astype(np.uint8)).convert("YCbCr").save(path)
    np.testing.assert_allclose(reading.read_image(path), by_pillow(path), atol=1e-6)
    Image.open(path).convert("RGB").save(path, compression="jpeg", quality=95)
    np.testing.assert_allclose(reading.read_image(path), by_pillow(path), atol=1e-6)


def test_16_bit_colour_and_separate_planes(path: Path) -> None:
    tifffile.imwrite(path, DEEP, photometric="rgb")
    np.testing.assert_allclose(reading.read_image(path), DEEP / 65535, atol=1e-7)
    assert reading.examine(path).kind == "16-bit colour"
    for values in (DEEP, COLOUR):
        planes = np.ascontiguousarray(np.moveaxis(values, 2, 0))
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
        np.testing.assert_allclose(reading.read_image(path), values / np.iinfo(values.dtype).max, atol=1e-7)


def test_deep_cmyk_and_palettes(path: Path) -> None:
    ink = RNG.integers(0, 65536, (20, 20, 4)).astype(np.uint16)
    tifffile.imwrite(path, ink, photometric="separated")
    share = ink / 65535
    np.testing.assert_allclose(reading.read_image(path), (1 - share[..., :3]) * (1 - share[..., 3:]), atol=1e-5)
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    for factor in (1, 257):  # a few programs write colours of 8 bits
        tifffile.imwrite(path, GREY, photometric="palette", colormap=table * factor)
        np.testing.assert_allclose(reading.read_image(path), table.T[GREY] / 255, atol=1e-6)
    assert reading.examine(path).kind == "palette"


def test_floats_must_lie_in_the_range(path: Path) -> None:
    values = RNG.random((20, 20, 3))
    for kind in (np.float16, np.float32, np.float64):
        tifffile.imwrite(path, values.astype(kind), photometric="rgb")
        np.testing.assert_allclose(reading.read_image(path), values, atol=1e-3)
    tifffile.imwrite(path, (values * 255).astype(np.float32), photometric="rgb")
    assert "value_range, such as 255" in refused(path)
    np.testing.assert_allclose(reading.read_image(path, value_range=255), values, atol=1e-6)
    for wrong in (np.nan, np.inf):
        values[3, 3] = wrong
        tifffile.imwrite(path, values.astype(np.float32), photometric="rgb")
        assert "finite" in refused(path)
        assert "finite" in refused(path, value_range=255)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.uint32])
def test_files_that_do_not_say_what_is_white(path: Path, kind: type) -> None:
    values = np.clip(GREY, 0, 100).astype(kind)
    tifffile.imwrite(path, values, photometric="minisblack")
    reason = refused(path)
    assert "does not say which value is white" in reason and "value_range, such as 255" in reason
    np.testing.assert_allclose(reading.read_image(path, value_range=120)[:, :, 0], values / 120, atol=1e-6)
    assert "90 shall be white" in refused(path, value_range=90)
    if np.iinfo(kind).min < 0:
        tifffile.imwrite(path, -values, photometric="minisblack")
        reason = refused(path)
        assert "from -100 to 0" in reason and "value_range" not in reason
        assert "255 shall be white" in refused(path, value_range=255)


def test_the_tag_for_the_largest_value_counts_if_it_names_a_number_of_bits(path: Path) -> None:
    values = (GREY.astype(np.uint16) * 16)[:, :20]
    for largest, white in ((4095, 4095), (1023, 65535), (3000, 65535), (65535, 65535)):
        write_tiff(path, values.astype("<u2").tobytes(), 20, 20, 16, tags={281: largest})
        np.testing.assert_allclose(reading.read_image(path)[:, :, 0], values / white, atol=1e-6)


def test_transparency(path: Path) -> None:
    alpha = RNG.integers(0, 256, (20, 23, 1)).astype(np.uint8)
    whole = np.dstack([COLOUR, alpha])
    share = alpha / 255
    want = COLOUR / 255 * share + 128 / 255 * (1 - share)
    tifffile.imwrite(path, whole, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(reading.read_image(path), want, atol=1.01 / 255)
    assert reading.examine(path).kind == "8-bit colour with transparency"
    tifffile.imwrite(path, whole.astype(np.uint16) * 257, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(reading.read_image(path), want, atol=1e-6)
    multiplied = np.dstack([COLOUR * share, alpha]).astype(np.uint16) * 257
    tifffile.imwrite(path, multiplied, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(reading.read_image(path), want, atol=1.01 / 255)
    tifffile.imwrite(path, whole, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(reading.read_image(path), COLOUR / np.float32(255))
    whole[..., 3] = 0
    for values in (whole, whole.astype(np.uint16)):
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"])
        assert "transparent everywhere" in refused(path) and "image behind it" in refused(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_the_orientation_tag(path: Path, orientation: int, deep: bool) -> None:
    values = GREY.astype(np.uint16) * 257 if deep else GREY
    order = ("<u2", 16) if deep else ("u1", 8)
    write_tiff(path, values.astype(order[0]).tobytes(), 23, 20, order[1], tags={274: orientation})
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    want = turn(GREY)
    np.testing.assert_allclose(reading.read_image(path)[:, :, 0], want / 255, atol=1e-6)
    info = reading.examine(path)
    assert (info.height_px, info.width_px) == want.shape
    assert reading.read_and_examine(path)[1] == info
    np.testing.assert_array_equal(reading.read_mask(path), want != 0)


def test_smaller_copies_are_no_pages_but_others_are(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(COLOUR, photometric="rgb", subfiletype=0)
        file.write(COLOUR[::4, ::4], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(reading.read_image(path), COLOUR / np.float32(255))
    with tifffile.TiffWriter(path) as file:
        file.write(COLOUR, photometric="rgb", subifds=1)
        file.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(reading.read_image(path), COLOUR / np.float32(255))
    tifffile.imwrite(path, np.stack([GREY] * 4), photometric="minisblack")
    assert refused(path) == "holds 4 frames; save each as a separate image"
    tifffile.imwrite(path, np.stack([GREY] * 4), photometric="minisblack", volumetric=True, tile=(2, 16, 16))
    assert "holds 4 frames" in refused(path)


def test_files_of_imagej_and_ome(path: Path) -> None:
    tifffile.imwrite(path, DEEP[:, :, 0], imagej=True, metadata={"min": 3.0, "max": 90.0})
    np.testing.assert_allclose(reading.read_image(path)[:, :, 0], DEEP[:, :, 0] / 65535, atol=1e-7)
    tifffile.imwrite(path, np.stack([GREY] * 3), imagej=True)
    assert "holds 3 frames" in refused(path)
    path = path.with_suffix(".ome.tif")
    tifffile.imwrite(path, DEEP[:, :, 0], ome=True)
    np.testing.assert_allclose(reading.read_image(path)[:, :, 0], DEEP[:, :, 0] / 65535, atol=1e-7)
    tifffile.imwrite(path, DEEP.transpose(2, 0, 1).copy(), ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    assert "holds 3 frames" in refused(path)


def test_what_is_no_image_is_refused(path: Path) -> None:
    tifffile.imwrite(path, np.ones((20, 20), np.complex64))
    assert "complex" in refused(path)
    tifffile.imwrite(
        path, RNG.integers(0, 9, (20, 20, 5)).astype(np.uint8), photometric="minisblack", planarconfig="contig"
    )
    assert "holds 5 channels" in refused(path)
    tifffile.imwrite(path, GREY, photometric="cfa")
    assert "develop it" in refused(path)
    tifffile.imwrite(path, COLOUR, photometric="cielab")
    assert "CIELAB" in refused(path)
    write_tiff(path, bytes(23 * 20 * 2), 23, 20, (5, 6, 5), tags={262: 2})
    assert "(5, 6, 5) bits" in refused(path)
    write_tiff(path, GREY.tobytes(), 23, 20, 8, tags={50706: 257})  # as the raw format DNG does
    assert "develop it" in refused(path)
    tifffile.imwrite(path, GREY)
    raw = path.with_suffix(".nef")
    path.rename(raw)
    assert "develop it" in refused(raw)


def test_a_lying_size_is_refused_before_it_is_decoded(path: Path) -> None:
    write_tiff(path, bytes(400), 100_000, 100_000, 8)
    assert "more than the limit" in refused(path)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "jpeg", "jpeg2000", "lzma", "webp", "zstd"])
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_a_file_that_is_cut_short_is_refused(
    path: Path, compression: str | None, filled: bool, tile: tuple[int, int] | None
) -> None:
    noise = np.random.default_rng(0).integers(60, 200, (96, 96, 3), dtype=np.uint8)
    tifffile.imwrite(path, noise, compression=compression, tile=tile, photometric="rgb")
    whole = path.read_bytes()
    assert reading.read_image(path).shape == (96, 96, 3)
    for share in (0.3, 0.5, 0.77, 0.93):
        kept = int(len(whole) * share)
        path.write_bytes(whole[:kept] + bytes(len(whole) - kept if filled else 0))
        reason = refused(path)
        assert any(word in reason for word in ("truncated", "half-written", "damaged")), reason
