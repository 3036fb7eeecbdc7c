"""Images of every kind are read as a viewer shows them, or refused with a clear error."""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advrad.data import images as reading
from advrad.data.transforms import resize
from advrad.errors import ImageError

RAMP = np.linspace(0, 255, 32 * 40).reshape(32, 40).astype(np.uint8)


def _reason(path: Path, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        reading.read_image(path, **options)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_grey_is_repeated_to_three_channels(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    got = reading.read_image(tmp_path / "a.png")
    assert got.dtype == np.float32
    assert got.shape == (32, 40, 3)
    np.testing.assert_array_equal(got[:, :, 1], RAMP.astype(np.float32) / 255)


def test_colour_is_exact(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    np.testing.assert_array_equal(reading.read_image(tmp_path / "a.png"), colour.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_grey_keeps_all_bits(tmp_path: Path, ending: str, order: str) -> None:
    values = np.arange(30000, 30000 + 32 * 32).reshape(32, 32).astype(order)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(values if ending == "tif" else values.astype("<u2")).save(path)
    got = reading.read_image(path)
    np.testing.assert_array_equal(np.rint(got[:, :, 0] * 65535), values)


def test_32_bit_integers_and_floats(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((16, 16), 70000, np.int32)).save(path)
    assert "32-bit integer values from 70000 to 70000, and does not say which value is white" in _reason(path)
    assert reading.read_image(path, value_range=140_000).max() == 0.5
    Image.fromarray(np.full((16, 16), 0.25, np.float32)).save(path)
    assert np.all(reading.read_image(path) == 0.25)
    for wrong in (np.nan, -0.1, 200.0):
        Image.fromarray(np.full((16, 16), wrong, np.float32)).save(path)
        assert "float values" in _reason(path)


@pytest.mark.parametrize("largest", [255, 1023, 65535])
def test_a_pgm_says_which_value_is_white(tmp_path: Path, largest: int) -> None:
    values = np.linspace(0, largest, 400).astype(">u2").reshape(20, 20)
    data = values.astype("u1") if largest < 256 else values
    (tmp_path / "a.pgm").write_bytes(f"P5 20 20 {largest}\n".encode() + data.tobytes())
    got, info = reading.read_and_examine(tmp_path / "a.pgm")
    np.testing.assert_allclose(got[:, :, 0], values / largest, atol=1e-4)
    assert info.kind == ("8-bit grey" if largest < 256 else "16-bit grey")


def test_one_bit_palette_and_cmyk(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 100).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(reading.read_image(tmp_path / "bit.png")[:, :, 0], RAMP > 100)
    red = Image.new("RGB", (20, 20), (255, 0, 0))
    red.quantize(4).save(tmp_path / "palette.gif")
    np.testing.assert_array_equal(reading.read_image(tmp_path / "palette.gif")[5, 5], [1, 0, 0])
    red.convert("CMYK").save(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(reading.read_image(tmp_path / "cmyk.tif")[5, 5], [1, 0, 0])
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    np.testing.assert_allclose(reading.read_image(tmp_path / "cmyk.jpg")[5, 5], [1, 0, 0], atol=0.02)


def test_transparent_pixels_become_mid_grey(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    noise[:, :10, 3], noise[:, 10:, 3] = 0, 255
    Image.fromarray(noise).save(tmp_path / "a.png")
    got = reading.read_image(tmp_path / "a.png")
    assert np.all(got[:, :10] == np.float32(128 / 255))
    np.testing.assert_array_equal(got[:, 10:], noise[:, 10:, :3].astype(np.float32) / np.float32(255))
    grey = Image.fromarray(noise).convert("LA")
    grey.save(tmp_path / "la.png")
    assert np.all(reading.read_image(tmp_path / "la.png")[:, :10] == np.float32(128 / 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_an_image_that_is_transparent_everywhere_is_refused(tmp_path: Path, mode: str, ending: str) -> None:
    if mode == "PA":
        image = Image.fromarray(RAMP).quantize(8)
        options: dict[str, Any] = {"transparency": bytes(8)}
        ending = "png"
    else:
        image, options = Image.fromarray(RAMP).convert(mode), {}
        image.putalpha(0)
    if ending == "webp":
        options |= {"lossless": True, "exact": True}
    image.save(tmp_path / f"a.{ending}", **options)
    reason = _reason(tmp_path / f"a.{ending}")
    assert "transparent everywhere" in reason and "save it without transparency" in reason
    assert "probably left its alpha channel at 0" in reason
    Image.new("RGBA", (20, 20)).save(tmp_path / "empty.png")
    assert "image behind it" not in _reason(tmp_path / "empty.png")


def test_a_transparent_palette_entry_and_a_colour_key(tmp_path: Path) -> None:
    colour = Image.new("P", (20, 20), 1)
    colour.putpalette([9, 9, 9, 255, 0, 0])
    colour.paste(0, (0, 0, 10, 20))
    colour.save(tmp_path / "p.png", transparency=0)
    got = reading.read_image(tmp_path / "p.png")
    np.testing.assert_array_equal(got[0, 0], np.float32([128 / 255] * 3))
    np.testing.assert_array_equal(got[0, 15], [1, 0, 0])
    keyed = Image.new("RGB", (20, 20), (1, 2, 3))
    keyed.paste((9, 9, 9), (0, 0, 10, 20))
    keyed.save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert np.all(reading.read_image(tmp_path / "key.png")[:, 10:] == np.float32(128 / 255))
    assert np.all(reading.read_image(tmp_path / "key.png")[:, :10] == np.float32(9 / 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotations_are_applied(tmp_path: Path, orientation: int) -> None:
    note = Image.Exif()
    note[0x0112] = orientation
    # Each EXIF orientation as numpy operations.
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
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=note)
    want = turn(RAMP)
    np.testing.assert_array_equal(np.rint(reading.read_image(tmp_path / "a.png")[:, :, 0] * 255).astype(int), want)
    info = reading.examine(tmp_path / "a.png")
    assert (info.height_px, info.width_px) == want.shape
    assert reading.read_and_examine(tmp_path / "a.png")[1] == info


def test_16_bit_grey_can_be_rotated(tmp_path: Path) -> None:
    note = Image.Exif()
    note[0x0112] = 6
    values = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(values).save(tmp_path / "a.png", exif=note)
    got = reading.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(np.rint(got[:, :, 0] * 65535), np.rot90(values, -1))


def test_files_that_are_not_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert "no such file" in _reason(path)
    assert "is a folder" in _reason(tmp_path)
    path.write_bytes(b"")
    assert "0 bytes" in _reason(path)
    path.write_text("just words\n")
    assert "holds text" in _reason(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in _reason(path)
    path.write_bytes(bytes(range(256)))
    assert "not an image of a known format" in _reason(path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "a.png")
    assert "not a regular file" in _reason(tmp_path / "a.png")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")

    # The administrator may read everything, so the refusal is simulated.
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    assert "permission denied" in _reason(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "gif", "webp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_images(tmp_path: Path, ending: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    reason = _reason(path)
    assert any(word in reason for word in ("truncated", "damaged", "not an image")), reason


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for ending in ("png", "jpg", "tif", "gif", "bmp", "webp", "jp2"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(ending, ending))
        whole = np.frombuffer(buffer.getvalue(), np.uint8)
        for trial in range(40):
            damaged = whole.copy()
            where = generator.integers(0, min(len(damaged), 400), 6)
            damaged[where] = generator.integers(0, 256, 6)
            path = tmp_path / f"{trial}.{ending}"
            path.write_bytes(damaged.tobytes())
            try:
                got = reading.read_image(path, max_pixels=100_000)
                assert got.ndim == 3
            except ImageError:
                pass


def test_small_large_and_several_frames(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    assert _reason(tmp_path / "dot.png") == "is 1 x 1 px; at least 16 px on each side are needed"
    Image.new("L", (400, 15)).save(tmp_path / "thin.png")
    assert "400 x 15 px" in _reason(tmp_path / "thin.png")
    Image.new("L", (100, 50)).save(tmp_path / "large.png")
    assert "100 x 50 px, more than the limit of 0.004999 million pixels" in _reason(
        tmp_path / "large.png", max_pixels=4999
    )
    assert reading.read_image(tmp_path / "large.png", 5000).shape == (50, 100, 3)
    frames = [Image.new("RGB", (20, 20), (i * 50, 0, 0)) for i in range(3)]
    for ending in ("gif", "tif", "png", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        assert "holds 3 frames" in _reason(tmp_path / f"a.{ending}")


def test_a_preview_does_not_count_as_a_frame(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (20, 20), (250, 0, 0)), Image.new("RGB", (20, 20))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert reading.read_image(tmp_path / "a.jpg")[5, 5, 0] > 0.9


def test_the_limit_and_warnings_of_pillow_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: reading.read_image(tmp_path / "a.png").shape, range(64)))
    assert got == [(64, 64, 3)] * 64
    assert Image.MAX_IMAGE_PIXELS == 100
    assert list(warnings.filters) == filters


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    assert "20000 x 20000 px, more than the limit of 200 million pixels" in _reason(tmp_path / "bomb.png")


def test_large_images_may_be_reduced_by_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "REDUCE_ABOVE_PIXELS", 1000)
    values = np.random.default_rng(0).integers(0, 256, (130, 205, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    got = reading.read_image(tmp_path / "a.png", at_least_px=16)
    assert got.shape == (33, 52, 3)
    want = values[4:8, 8:12].astype(np.float64).mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(got[1, 2], want, rtol=1e-5)
    np.testing.assert_allclose(got[-1, -1], values[128:, 204:].mean(axis=(0, 1)) / 255, rtol=1e-5)
    assert reading.read_image(tmp_path / "a.png").shape == (130, 205, 3)
    grey = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
    grey.save(tmp_path / "g.png")
    np.testing.assert_allclose(reading.read_image(tmp_path / "g.png", at_least_px=16)[:, :, 0], got[:, :, 0], rtol=1e-5)


@pytest.mark.parametrize("limit", [1000, 4_000_000])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_two_sizes_are_those_of_two_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, mode: str
) -> None:
    monkeypatch.setattr(reading, "REDUCE_ABOVE_PIXELS", limit)
    values = np.random.default_rng(0).integers(0, 256, (130, 205, 3), dtype=np.uint8)
    image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257 if mode == "I;16" else values)
    (image.convert("L") if mode == "L" else image).save(tmp_path / "a.png")
    found = reading.read_working_image(tmp_path / "a.png", 16, keep_full=True)
    assert found.full is not None
    np.testing.assert_array_equal(found.full, reading.read_image(tmp_path / "a.png"))
    assert torch.equal(found.resized, reading.read_resized(tmp_path / "a.png", 16))
    assert reading.read_working_image(tmp_path / "a.png", 16).full is None


def test_read_resized_of_a_reduced_image_stays_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[0:256, 0:320]
    Image.fromarray((127 + 120 * np.sin(x / 25) * np.cos(y / 30)).astype(np.uint8)).save(tmp_path / "a.png")
    plain = reading.read_resized(tmp_path / "a.png", 32)
    assert plain.shape == (3, 32, 32)
    assert plain.dtype == torch.float32
    monkeypatch.setattr(reading, "REDUCE_ABOVE_PIXELS", 1000)
    assert (reading.read_resized(tmp_path / "a.png", 32) - plain).abs().max() < 0.02


def test_masks_of_all_kinds(tmp_path: Path) -> None:
    want = np.zeros((12, 10), bool)
    want[3:7, 2:5] = True
    path = tmp_path / "m.png"
    whole = want.astype(np.uint8)
    palette = Image.fromarray(whole * 2).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255, 0, 128, 0])
    clear = Image.new("RGBA", (10, 12), (200, 200, 200, 0))
    clear.paste((255, 0, 0, 255), (2, 3, 5, 7))
    colour = Image.fromarray(np.stack([whole * 0, whole * 0, whole * 9], axis=2))
    kinds = [whole, whole * 255, whole * 3, want, whole.astype(np.uint16) * 300]
    for image in [*map(Image.fromarray, kinds), palette, clear, colour]:
        image.save(path)
        got = reading.read_mask(path)
        assert got.dtype == np.bool_
        np.testing.assert_array_equal(got, want)
    Image.fromarray(whole * 255).resize((100, 120), 0).save(tmp_path / "m.jpg", quality=60)
    np.testing.assert_array_equal(reading.read_mask(tmp_path / "m.jpg"), np.repeat(np.repeat(want, 10, 0), 10, 1))
    path.write_text("x")
    with pytest.raises(ImageError):
        reading.read_mask(path)


def test_examine_tells_size_and_pixel_type(tmp_path: Path) -> None:
    noise = np.zeros((20, 24, 3), np.uint8)
    kinds = {
        "8-bit grey": Image.fromarray(noise[:, :, 0]),
        "8-bit colour": Image.fromarray(noise),
        "16-bit grey": Image.fromarray(noise[:, :, 0].astype(np.uint16)),
        "1-bit": Image.fromarray(noise[:, :, 0] > 0),
        "8-bit colour with transparency": Image.fromarray(noise).convert("RGBA"),
        "8-bit grey with transparency": Image.fromarray(noise[:, :, 0]).convert("LA"),
        "palette": Image.fromarray(noise).quantize(4),
    }
    for kind, image in kinds.items():
        image.save(tmp_path / "a.png")
        info = reading.examine(tmp_path / "a.png")
        assert info == reading.ImageInfo(24, 20, kind)
        values, again = reading.read_and_examine(tmp_path / "a.png")
        assert again == info
        np.testing.assert_array_equal(values, reading.read_image(tmp_path / "a.png"))


def test_resize_is_linear_keeps_constants_and_size() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 50, 70, generator=generator).double().unbind()
    for size in (16, 64, 96):
        both = resize(2 * a - 3 * b, size)
        assert both.shape == (2, 3, size, size)
        torch.testing.assert_close(both, 2 * resize(a, size) - 3 * resize(b, size))
        torch.testing.assert_close(resize(torch.full((1, 1, 37, 90), 0.3), size), torch.full((1, 1, size, size), 0.3))
        inside = resize(a, size)
        assert inside.min() >= a.min() - 1e-9
        assert inside.max() <= a.max() + 1e-9
    square = torch.rand(1, 3, 32, 32, generator=generator)
    assert torch.equal(resize(square, 32), square)


@pytest.mark.parametrize("sides", [(32, 32), (64, 32), (50, 70), (20, 33)])
def test_exported_resize_equals_the_usual_one(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0)).double()
    usual = resize(images, 32)
    monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)
    torch.testing.assert_close(resize(images, 32), usual)


def test_resize_averages_and_has_gradients() -> None:
    # A fine checkerboard becomes even grey; without antialiasing it would stay black and white.
    board = ((torch.arange(64)[:, None] + torch.arange(64)[None, :]) % 2).float()[None, None]
    assert (resize(board, 16) - 0.5).abs().max() < 0.02
    images = torch.rand(1, 1, 12, 20, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, 5), images)


@pytest.mark.slow
def test_an_image_of_12000_px_square(tmp_path: Path) -> None:
    # Takes some seconds and 2.4 GB. Warnings of Pillow would be errors here.
    Image.new("RGB", (12_000, 12_000), (51, 102, 153)).save(tmp_path / "a.png", compress_level=1)
    got = reading.read_resized(tmp_path / "a.png", 64)
    torch.testing.assert_close(got[:, 3, 5], torch.tensor([0.2, 0.4, 0.6]))


def test_the_module_of_advrad_0_1_still_works_and_names_the_new_one() -> None:
    import advrad.pictures

    with pytest.warns(DeprecationWarning, match=r"is now advrad\.data\.images\.read_image"):
        assert advrad.pictures.read_picture is reading.read_image
    with pytest.warns(DeprecationWarning, match=r"images\.read_mask"):
        assert advrad.pictures.read_mask is reading.read_mask
    with pytest.raises(AttributeError, match=r"see advrad\.data\.images"):
        advrad.pictures.resize  # noqa: B018
