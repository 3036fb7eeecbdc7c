import time

import numpy as np
import pytest
import torch

from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.errors import ConfigError, DataError
from advrad.utils.seeding import generator_for


def oracle(image: np.ndarray) -> tuple[float, float]:
    """Both statistics pixel by pixel, from their definitions."""
    grey = image.mean(axis=0)
    rows, columns = grey.shape
    laplacian = [
        4 * grey[y, x] - grey[y - 1, x] - grey[y + 1, x] - grey[y, x - 1] - grey[y, x + 1]
        for y in range(1, rows - 1)
        for x in range(1, columns - 1)
    ]
    return float(grey.mean()), float(np.std(laplacian))


@pytest.mark.parametrize("size", [(3, 3), (5, 17), (24, 8)])
def test_statistics_follow_their_definitions(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=generator_for(0, size))
    brightness, sharpness = oracle(image.double().numpy())
    found = picture_statistics(image)
    assert found.brightness == pytest.approx(brightness, abs=2e-7)
    assert found.sharpness == pytest.approx(sharpness, abs=2e-7)


def test_bytes_and_floats_agree() -> None:
    image = torch.randint(0, 256, (3, 20, 30), generator=generator_for(1), dtype=torch.uint8)
    eight, real = picture_statistics(image), picture_statistics(image.float() / 255)
    assert eight.brightness == pytest.approx(real.brightness, abs=2e-7)
    assert eight.sharpness == pytest.approx(real.sharpness, abs=2e-7)


def test_blur_lowers_sharpness_and_keeps_brightness() -> None:
    image = torch.rand(3, 32, 32, generator=generator_for(2))
    blurred = torch.nn.functional.avg_pool2d(image[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    assert picture_statistics(blurred).sharpness < 0.5 * picture_statistics(image).sharpness
    assert picture_statistics(blurred).brightness == pytest.approx(picture_statistics(image).brightness, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 2, 8), (3, 8), (2, 3, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"shape \(3, h, w\)"):
        picture_statistics(torch.zeros(shape))


def test_values_that_are_not_finite_are_refused() -> None:
    image = torch.zeros(3, 8, 8)
    image[0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        picture_statistics(image)


def test_a_reference_is_sorted_and_whole() -> None:
    reference = PictureReference.of(picture_statistics(torch.full((3, 4, 4), value)) for value in (0.75, 0.25, 0.5))
    assert reference.brightness == (0.25, 0.5, 0.75)
    assert reference.sharpness == (0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="same images"):
        PictureReference.parse({"brightness": [0.1, 0.2], "sharpness": [0.1]})


def test_statistics_take_little_time() -> None:
    image = torch.rand(3, 256, 256, generator=generator_for(3))
    spent = []
    for _ in range(20):
        began = time.process_time()
        picture_statistics(image)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.005  # about 0.4 ms on one core; the limit leaves room for a slow machine
