"""The graph makes the working image that reading a file makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_graphs import as_tensor, pixels

from advrad.data.framing import Framing
from advrad.data.images import REDUCE_ABOVE_PIXELS, at_working_size, read_working_image, reduction_px
from advrad.exporting.framing_graph import FramingGraph, _reduction, _scaled_size

# A working image that shows 1 px across is left out: PyTorch 2.13 resizes to that width wrongly.
#: Working sizes for which PyTorch's float32 weights are exact, so that nothing but sums rounds.
EXACT = (Framing.square(64), Framing.square(32, pad=True), Framing(64, 128))
SHAPES = ((64, 64), (256, 256), (16, 500), (500, 30), (128, 128), (96, 160), (65, 63), (40, 30))


def exact(image: np.ndarray, framing: Framing) -> torch.Tensor:
    """The working image of an image that is not reduced, computed in float64."""
    values = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    return framing.apply(values)[0]


@pytest.mark.parametrize("framing", [*EXACT, Framing.square(48), Framing.square(50, pad=True), Framing(24, 200)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_working_image_is_that_of_exact_arithmetic(framing: Framing, shape: tuple[int, int]) -> None:
    image = pixels(*shape)
    working = FramingGraph(framing)(as_tensor(image))[0]
    assert working.shape == (3, framing.height_px, framing.width_px)
    assert float((working - exact(image, framing)).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_gives_the_same_working_image(shape: tuple[int, int], tmp_path: Path) -> None:
    image, path = pixels(*shape), tmp_path / "image.png"
    Image.fromarray(image).save(path)
    for framing in EXACT[::2]:
        read = read_working_image(path, framing).resized
        assert float((FramingGraph(framing)(as_tensor(image))[0] - read).abs().max()) < 1e-6


@pytest.mark.parametrize("framing", [Framing.square(32), Framing.square(48, pad=True), Framing(48, 96)])
@pytest.mark.parametrize("shape", [(60, 110), (201, 203), (64, 333)])
def test_large_images_are_averaged_over_squares_first(
    framing: Framing, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("advrad.data.images", "advrad.exporting.framing_graph"):
        monkeypatch.setattr(f"{module}.REDUCE_ABOVE_PIXELS", 5000)
    image = pixels(*shape)
    expected = at_working_size(image, 255.0, framing)
    found = FramingGraph(framing)(as_tensor(image))[0]
    plain = framing.apply(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    # PyTorch rounds the positions of pixels to float32, which moves hard edges by up to 1e-5.
    assert float((found - expected).abs().max()) < 1e-5
    assert reduction_px(*shape, framing) == 1 or float((plain - expected).abs().max()) > 1e-4


def test_sizes_without_branches_are_those_of_the_framing() -> None:
    framings = (Framing.square(64, pad=True), Framing.square(256, pad=True), Framing(96, 200), Framing.square(100))
    for framing in framings:
        for height in (16, 17, 64, 100, 301, 1999, 4001):
            for width in (16, 33, 128, 512, 1001, 3001, 8192):
                scaled = framing.scaled_size(height, width)
                assert _scaled_size(framing, height, width) == scaled
                assert _reduction(height, width, *scaled) == reduction_px(height, width, framing)
    assert reduction_px(4001, 8192, framings[0]) > 1 and REDUCE_ABOVE_PIXELS < 4001 * 8192


@pytest.mark.real
def test_real_images_have_the_same_working_image(shared_data: Path) -> None:
    for folder in ("mvtec_ad/bottle/test/good", "visa/macaroni1/test/good", "mtd/magnetic_tile/test/good"):
        path = sorted((shared_data / folder).iterdir())[0]
        found = read_working_image(path, 256, keep_full=True)
        assert found.full is not None
        image = np.rint(found.full * 255).astype(np.uint8)
        working = FramingGraph(Framing.square(256))(as_tensor(image))[0]
        assert float((working - found.resized).abs().max()) < 1e-6
