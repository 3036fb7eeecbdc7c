"""Images in memory: read like their files where they are unambiguous, refused with the fix where they are not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from advrad.data.array_checks import check_images
from advrad.data.arrays import image_batches, pixels_of
from advrad.data.framing import Framing
from advrad.data.images import read_resized
from advrad.data.value_range import ImageLevels, RangeRecord
from advrad.errors import ConfigError, DataError, ImageError, ImageWarning

SIZE = 24
RNG = np.random.default_rng(3)
FRAME: npt.NDArray[np.uint8] = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
DEEP: npt.NDArray[np.uint16] = RNG.integers(0, 65536, (40, 56), dtype=np.uint16)
UNIT = torch.from_numpy(FRAME.transpose(2, 0, 1) / np.float32(255))


def read(images: Any, **options: Any) -> torch.Tensor:
    """All images at the working size."""
    return torch.cat([batch.pixels for batch in image_batches(images, SIZE, **options)])


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# --- as from the file ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    height=st.integers(16, 70),
    width=st.integers(16, 70),
    seed=st.integers(0, 99),
)
def test_a_picture_is_read_as_its_file(tmp_path: Path, mode: str, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(1, 256, (height, width, 4), dtype=np.uint8)).convert(mode)
    path = saved(tmp_path / "a.png", image)
    wanted = read_resized(path, SIZE)[None]
    before = image.tobytes()
    torch.testing.assert_close(read(image), wanted, rtol=0, atol=1e-6)
    with Image.open(path) as opened:
        torch.testing.assert_close(read(opened), wanted, rtol=0, atol=1e-6)
    assert image.tobytes() == before, "the picture of the user was changed"
    if mode in ("L", "RGB", "RGBA", "I;16"):
        torch.testing.assert_close(read(np.asarray(image)), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_is_turned_as_its_file_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tiff"):
        path = saved(tmp_path / name, Image.fromarray(FRAME), exif=exif)
        with Image.open(path) as image:
            torch.testing.assert_close(read(image), read_resized(path, SIZE)[None], rtol=0, atol=1e-6)


def test_other_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tiff", Image.fromarray(FRAME).convert("CMYK"))
    with Image.open(path) as opened:
        torch.testing.assert_close(read(opened), read(path), rtol=0, atol=1e-6)
    data = io.BytesIO()
    Image.fromarray(FRAME).save(data, "PNG")
    assert torch.equal(read(Image.open(data)), read(FRAME))
    frames = [Image.fromarray(FRAME), Image.fromarray(FRAME[::-1].copy())]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "b.gif") as opened, pytest.raises(ImageError, match=r"images: holds 2 frames"):
        read(opened)
    with pytest.raises(ImageError, match=r"images\[1\]: .* at least 16 px"):
        read([FRAME, Image.fromarray(FRAME[:9])])
    with pytest.raises(ImageError, match="more than the limit"):
        read(Image.fromarray(FRAME), max_pixels=100)


FORMS: dict[str, Callable[[], Any]] = {
    "batch": lambda: FRAME[None],
    "channels first": lambda: FRAME.transpose(2, 0, 1),
    "batch with channels first": lambda: np.ascontiguousarray(FRAME.transpose(2, 0, 1)[None]),
    "tensor": lambda: torch.from_numpy(FRAME.copy()),
    "tensor with channels first": lambda: torch.from_numpy(FRAME.transpose(2, 0, 1).copy()),
    "turned back": lambda: FRAME[:, :, ::-1].copy()[:, :, ::-1],
    "every second": lambda: np.repeat(np.repeat(FRAME, 2, 0), 2, 1)[::2, ::2],
    "opaque": lambda: np.dstack([FRAME, np.full((40, 56), 255, np.uint8)]),
    "subclass": lambda: FRAME.view(type("Mine", (np.ndarray,), {})),
    "masked without a mask": lambda: np.ma.masked_array(FRAME),
    "16 bits": lambda: FRAME.astype(np.uint16) * 257,
    "16 bits the other way round": lambda: (FRAME.astype(np.uint16) * 257).astype(">u2"),
    "float32": lambda: FRAME / np.float32(255),
    "float64": lambda: FRAME / 255,
    "float the other way round": lambda: (FRAME / 255).astype(">f8"),
    "column of pictures": lambda: np.array([Image.fromarray(FRAME), None], dtype=object)[:1],
    "object of another library": lambda: type("Other", (), {"__array__": lambda *_, **__: FRAME})(),
    "generator": lambda: (FRAME for _ in range(1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_frame_is_the_same_image(form: str) -> None:
    given = FORMS[form]()
    torch.testing.assert_close(read(given), read(FRAME), rtol=0, atol=1e-6)


def test_a_frame_that_cannot_be_written_stays_as_it_is() -> None:
    for frame in (FRAME, FRAME / np.float32(255), np.ascontiguousarray(FRAME.transpose(2, 0, 1) / np.float32(255))):
        fixed = frame.copy()
        fixed.flags.writeable = False
        read(fixed)
        pixels_of(fixed)
        assert np.array_equal(fixed, frame)


def test_one_channel_is_repeated() -> None:
    grey = FRAME[:, :, 0]
    wanted = read(np.dstack([grey] * 3))
    for form in (grey, grey[:, :, None], grey[None], grey[None, None], grey[None, :, :, None]):
        torch.testing.assert_close(read(form), wanted, rtol=0, atol=1e-6)
    assert torch.equal(read(UNIT[:1]), UNIT[:1].repeat(3, 1, 1)[None])


def test_transparent_pixels_become_mid_grey() -> None:
    clear = np.dstack([FRAME, np.zeros((40, 56), np.uint8)])
    clear[:20, :, 3] = 255
    wanted = read(np.concatenate([FRAME[:20], np.full((20, 56, 3), 128, np.uint8)]))
    torch.testing.assert_close(read(clear), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(read(clear / 255), wanted, rtol=0, atol=1e-6)


# --- float tensors keep their size -----------------------------------------------------------------------------------


def test_float_tensors_keep_their_size() -> None:
    two = torch.stack([UNIT, UNIT.flip(2)])
    assert torch.equal(read(two), two)
    for form in (two.double(), two.permute(0, 2, 3, 1), two.clone().requires_grad_(), list(two), two.split(1)):
        torch.testing.assert_close(read(form), two, rtol=0, atol=1e-7)
    assert torch.equal(read(two.half()), two.half().float())
    assert torch.equal(read(two.bfloat16()), two.bfloat16().float())


def test_a_list_may_mix_everything(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(FRAME))
    given = [str(path), path, FRAME, Image.fromarray(FRAME), UNIT, UNIT[None].repeat(2, 1, 1, 1), FRAME]
    batches = list(image_batches(given, SIZE, batch_size=3))
    assert [len(batch.images) for batch in batches] == [3, 1, 3, 1], "images of two sizes are not in one batch"
    images = [image for batch in batches for image in batch.images]
    assert [image.name for image in images] == [
        *[str(path)] * 2,
        *[f"images[{place}]" for place in ("2", "3", "4", "5][0", "5][1", "6")],
    ]
    assert [image.path for image in images] == [path] * 2 + [None] * 6
    names = np.array([str(path), str(path)])
    assert torch.equal(read(names), read([path, path])) and torch.equal(read(names.astype(object)), read(names))


def test_images_are_read_as_they_are_needed() -> None:
    asked = []

    def camera() -> Any:
        for number in range(9):
            asked.append(number)
            yield FRAME

    batches = image_batches(camera(), SIZE, batch_size=2)
    next(batches)
    assert asked == [0, 1]


@pytest.mark.parametrize("none", [[], (), iter([]), np.array([]), np.empty((0, 40, 56, 3)), torch.empty(0, 3, 9, 9)])
def test_no_images_give_no_batches(none: Any) -> None:
    assert list(image_batches(none, SIZE)) == []
    with pytest.raises(DataError, match="images: there are none"):
        pixels_of(none)


def test_rounding_is_clipped() -> None:
    pixels = read(torch.cat([UNIT - 9e-7, UNIT + 9e-7], 2))
    assert float(pixels.min()) == 0 and float(pixels.max()) == 1
    with pytest.raises(DataError, match="clip them"):
        read(UNIT + 3e-6)


# --- refused ---------------------------------------------------------------------------------------------------------

NAN = np.where(np.arange(FRAME.size).reshape(FRAME.shape) == 77, np.nan, FRAME / 255)
REFUSED: dict[str, tuple[Any, str]] = {
    "NaN": ([FRAME, NAN], r"images\[1\]: float64 of shape \(40, 56, 3\) has 1 value that is NaN or infinite; mend"),
    "infinity": (
        torch.stack([UNIT, UNIT / 0]),
        r"images\[1\]: float32 of shape \(3, 40, 56\) has \d+ values that are NaN",
    ),
    "0 to 255": (FRAME.astype(np.float32), r"has values from 0 to 255; divide by 255, or give uint8"),
    "half of 0 to 255": (torch.from_numpy(FRAME).half(), r"float16 .* values from 0 to 255; divide by 255"),
    "0 to 4095": (UNIT * 4095, r"values from 0 to 4095; divide by the value of white"),
    "-1 to 1": (UNIT * 2 - 1, r"values from -1 to 1; .*\(images \+ 1\) / 2"),
    "normalised": ((UNIT - 0.45) / 0.22, "normalised by mean and standard deviation"),
    "far away": (UNIT * 1e9, "give values in"),
    "int64": (FRAME.astype(int), r"int64 .* from 0 to 255; give array.astype\('uint8'\)"),
    "int16": (FRAME.astype(np.int16) * 9, r"int16 .* give array.astype\('uint16'\)"),
    "signed": (FRAME.astype(np.int32) - 128, r"int32 .* values from -128 to 127; give uint8"),
    "bool": (FRAME > 99, r"bool of shape .* array.astype\('uint8'\) \* 255"),
    "complex": (FRAME * 1j, "complex128 .*give uint8"),
    "complex tensor": (UNIT * 1j, "complex64; give a usual tensor"),
    "sparse": (UNIT.to_sparse(), "sparse_coo tensor"),
    "meta": (UNIT.to("meta"), "meta tensor"),
    "objects": ([FRAME.astype(object)], r"images\[0\]: object of shape"),
    "words": (np.array([["a", "b"]]), "<U1 of shape"),
    "fields": (np.zeros((40, 56), [("red", "u1")]), "give uint8"),
    "masked": (np.ma.masked_array(FRAME, FRAME > 250), r"images: \d+ values are masked; fill them"),
    "many channels": (np.zeros((40, 56, 8), np.uint8), r"\(40, 56, 8\); give \(h, w\)"),
    "grey stack": (np.zeros((7, 40, 56), np.uint8), r"\(n, 1, h, w\)"),
    "ambiguous": (np.zeros((3, 56, 3), np.uint8), "channels first or last"),
    "ambiguous batch": (torch.zeros(2, 3, 40, 4), "channels first or last"),
    "five sides": (np.zeros((1, 2, 3, 40, 56), np.uint8), "give"),
    "one side": (np.zeros(40, np.uint8), "give"),
    "a number": (np.float32(0.5), r"of shape \(\); give"),
    "no pixels": (np.zeros((2, 0, 56, 3), np.uint8), "has no pixels"),
    "small": (FRAME[:9], "at least 16 px"),
    "all transparent": (np.zeros((40, 56, 4), np.uint8), "transparent everywhere"),
    "bytes": (b"\x89PNG", "io.BytesIO"),
    "a stream": (io.BytesIO(b"\x89PNG"), "of the type BytesIO"),
    "a mapping": ({"image": FRAME}, "of the type dict"),
    "None": (None, "of the type NoneType"),
    "numbers": (FRAME.tolist(), r"images\[0\]: is a list"),
    "a batch with labels": ([(UNIT[None], torch.zeros(1))], r"images\[0\]: is a tuple \(a batch with labels"),
    "None in a list": ([FRAME, None], r"images\[1\]: is of the type NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_with_the_fix(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(DataError, match=words):
        read(given)


def test_a_broken_array_of_another_library_is_refused() -> None:
    class Remote:
        def __array__(self, *_: object, **__: object) -> Any:
            raise TypeError("on another device")

    with pytest.raises(DataError, match=r"images\[0\]: the Remote cannot become an array \(on another device\)"):
        read([Remote()])
    with pytest.raises(ConfigError, match="batch_size 0: must be 1 or more"):
        read(FRAME, batch_size=0)


@pytest.mark.parametrize(
    "dark", [FRAME / 255 / 255, UNIT / 255, (FRAME > 99).astype(np.uint8), FRAME.astype(np.uint16)]
)
def test_an_image_that_was_divided_twice_is_doubted(dark: Any) -> None:
    with pytest.warns(ImageWarning, match=r"images\[0\]: is nearly black.*twice") as seen:
        read([dark, dark])
    assert len(seen) == 1, "once for all images of a call"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(np.zeros_like(dark))
        read(np.full((40, 56, 3), 2, np.uint8))


# --- which value is white --------------------------------------------------------------------------------------------


def test_whole_numbers_are_read_in_the_range_of_the_training() -> None:
    levels = [ImageLevels(4095, 0, 4000)]
    trained = Framing.square(SIZE, trained_range=RangeRecord.of(levels, given=4095))
    twelve = DEEP >> 4
    (batch,) = image_batches(twelve, trained)
    torch.testing.assert_close(batch.pixels, read((twelve / 4095).astype(np.float32)), rtol=0, atol=1e-6)
    for form in (twelve.astype(np.int32), Image.fromarray(twelve)):
        torch.testing.assert_close(next(image_batches(form, trained)).pixels, batch.pixels, rtol=0, atol=1e-6)
    torch.testing.assert_close(pixels_of(twelve, framing=trained).max(), torch.tensor(1.0), rtol=0, atol=1e-3)
    with pytest.raises(DataError, match=r"images: .* from \d+ to \d+.* 4095 "):
        next(image_batches(DEEP, trained))
    with pytest.raises(DataError, match=r"images: .*4095"):
        next(image_batches(FRAME, trained))


def test_another_range_than_that_of_the_training_is_refused() -> None:
    eight = Framing.square(SIZE, trained_range=RangeRecord.of([ImageLevels(255, 0, 250)]))
    for form in (DEEP, Image.fromarray(DEEP)):
        with pytest.raises(DataError, match=r"images\[0\]: has 16 bits.*trained on images of 8 bits"):
            next(image_batches([form], eight))
    for form in (FRAME, FRAME / 255, UNIT):
        assert len(next(image_batches(form, eight)).pixels) == 1
    assert len(next(image_batches(DEEP, eight.with_white(65535))).pixels) == 1


# --- images of one size, and checks of batches -----------------------------------------------------------------------


def test_images_with_labels_keep_their_size_and_their_channels() -> None:
    assert torch.equal(pixels_of(UNIT[None]), UNIT[None])
    torch.testing.assert_close(pixels_of([FRAME, FRAME, Image.fromarray(FRAME)]), UNIT.repeat(3, 1, 1, 1))
    assert pixels_of(torch.rand(4, 1, 9, 9)).shape == (4, 3, 9, 9)
    assert pixels_of(torch.rand(4, 1, 9, 9), colour=False).shape == (4, 1, 9, 9)
    assert pixels_of(torch.rand(4, 5, 9, 9), colour=False).shape == (4, 5, 9, 9)
    with pytest.raises(DataError, match=r"images\[1\]: is 40 x 56 px.* first image is 56 x 40 px"):
        pixels_of([FRAME, FRAME.transpose(1, 0, 2)])


def test_a_check_leaves_batches_and_gradients_as_they_are() -> None:
    images = torch.rand(2, 3, 9, 9, requires_grad=True)
    assert check_images(images) is images
    low = images.detach().clone()
    low[1, 0, 3, 3] = -1e-5
    for broken, words in (
        (low, r"images\[1\]: float32 of shape \(3, 9, 9\) has values from -1e-05 .*clip"),
        (low.half().mul(float("nan")), r"images\[0\]: float16 .* 243 values that are NaN"),
        (low[0], r"expected \(b, 3, h, w\), got \(3, 9, 9\)"),
        (low.byte(), "uint8 .* images / 255"),
        (low.numpy(), "got ndarray; predict takes arrays"),
    ):
        with pytest.raises(DataError, match=words):
            check_images(broken)  # type: ignore[arg-type]
