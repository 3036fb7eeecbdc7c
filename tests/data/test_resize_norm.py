"""How much reading a file at the working size can lengthen an l2 change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advrad.data import images
from advrad.data.framing import Framing
from advrad.data.resize_norm import (
    MOST_TO_ONE,
    RESIZE_ROUNDING,
    framed_radius,
    read_norm,
    resize_matrix,
    resize_rounding,
)
from advrad.data.transforms import resize
from advrad.errors import DataError


@pytest.mark.parametrize(
    ("height", "width", "size"), [(20, 28, 8), (50, 37, 8), (64, 33, 8), (9, 12, 16), (16, 16, 16)]
)
def test_no_change_of_a_file_grows_by_more(height: int, width: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact operator norm, from the matrix of what reading does to each single pixel."""
    monkeypatch.setattr(images, "REDUCE_ABOVE_PIXELS", 100)
    columns = []
    for index in range(height * width):
        pixel = np.zeros(height * width, np.float32)
        pixel[index] = 1
        reduced = torch.from_numpy(images._reduced(pixel.reshape(height, width), size))
        columns.append(resize(reduced[None, None], size).flatten())
    true = float(torch.linalg.matrix_norm(torch.stack(columns).double(), 2))
    assert true <= read_norm(height, width, size)
    if images.reduction_px(height, width, size) == 1:
        assert read_norm(height, width, size) == pytest.approx(true, rel=1e-4)
    else:
        assert read_norm(height, width, size) < 1.5, "averaging shortens"


def test_only_large_images_are_averaged_over_squares() -> None:
    assert images.reduction_px(3000, 4000, 256) == 5
    assert images.reduction_px(600, 600, 256) == 1
    assert images.reduction_px(400, 90_000, 256) == 1


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(301, 401, 96, 200), (640, 90, 16, 16), (50, 60, 96, 96)]
)
def test_rounding_moves_two_resized_images_apart_by_no_more_than_the_bound(
    height: int, width: int, rows: int, columns: int
) -> None:
    """Both are resized in float32, and with the same float32 weights in float64."""
    bound = resize_rounding((height, width), (rows, columns))
    assert 0 < bound <= RESIZE_ROUNDING
    draws = torch.Generator().manual_seed(0)
    left, right = (resize_matrix(old, new) for old, new in ((height, rows), (width, columns)))
    first = torch.rand(1, 1, height, width, generator=draws).round()
    for second in (1 - first, torch.zeros_like(first), torch.rand(first.shape, generator=draws)):
        found = (resize(first, (rows, columns)) - resize(second, (rows, columns)))[0, 0].double().numpy()
        exact = left @ (first - second)[0, 0].double().numpy() @ right.T
        assert float(np.abs(found - exact).max()) <= bound


def test_an_image_whose_rounding_is_not_bounded_is_refused() -> None:
    framing = Framing.square(16, pad=True)
    assert framed_radius(640, 640, framing, 0.01, "linf") > 0.01
    with pytest.raises(DataError, match="an image of 700 x 700 px is too large for bounds at 16 x 16 px"):
        framed_radius(700, 700, framing, 0.01, "linf")
    # A file is averaged first, and only what is left counts.
    assert framed_radius(5000, 5000, framing, 0.01, "linf", read=True) <= 0.01 + 2 * RESIZE_ROUNDING


def test_the_bound_for_files_covers_every_allowed_ratio() -> None:
    most = (MOST_TO_ONE * 64, MOST_TO_ONE * 64)
    assert resize_rounding(most, (64, 64), side_px=80) <= RESIZE_ROUNDING
