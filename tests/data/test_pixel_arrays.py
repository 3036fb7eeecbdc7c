"""Images in 8 bits at their own size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advrad.data.framing import Framing
from advrad.data.images import as_8_bits, read_and_examine8, read_image, read_pixels8
from advrad.data.pixel_arrays import images_in_8_bits
from advrad.data.shapes import ShapeRecord
from advrad.errors import DataError, ImageWarning

FRAMING = Framing.square(32)


def frame(seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).integers(0, 256, (21, 34, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "I;16"])
def test_files_have_the_values_that_other_detectors_read_rounded_to_8_bits(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    values = frame()
    if mode == "I;16":
        Image.fromarray(values[:, :, 0].astype(np.uint16) * 251 + 7).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    pixels, info = read_and_examine8(path)
    wanted = np.rint(read_image(path) * 255)
    assert pixels.shape == (21, 34, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
    assert np.array_equal(pixels, wanted)
    assert (info.height_px, info.width_px) == (21, 34)
    assert np.array_equal(read_pixels8(path), pixels)


def test_8_bits_stay_as_they_are() -> None:
    assert np.array_equal(as_8_bits(frame(), 255), frame())
    assert as_8_bits(np.array([[0.0, 0.5, 1.0]], np.float32), 1)[0, :, 0].tolist() == [0, 128, 255]
    assert as_8_bits(np.array([[0, 4095]], np.uint16), 4095)[0, :, 2].tolist() == [0, 255]


def test_arrays_of_every_kind_become_the_same_pixels() -> None:
    values = frame()
    given = [
        values,
        values[::-1][::-1],
        values.astype(np.uint16) * 257,
        values.astype(np.float32) / 255,
        torch.from_numpy(values).permute(2, 0, 1),
        torch.from_numpy(values).permute(2, 0, 1) / 255,
        Image.fromarray(values),
    ]
    frozen = values.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(images_in_8_bits([*given, frozen], FRAMING))
    assert all(np.array_equal(image.pixels.numpy(), values) for image in found)
    assert {image.sides_px for image in found} == {(21, 34)}


def test_images_of_another_shape_are_refused_or_doubted(tmp_path: Path) -> None:
    framing = Framing.square(32, trained=ShapeRecord.of([(30, 30)]))
    long = np.zeros((20, 90, 3), np.uint8) + 90
    Image.fromarray(long).save(tmp_path / "long.png")
    for given in (long, tmp_path / "long.png"):
        with pytest.raises(DataError):
            list(images_in_8_bits(given, framing))
    with pytest.warns(ImageWarning):
        list(images_in_8_bits(long[:, :29], framing))
