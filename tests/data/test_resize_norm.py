"""How much reading a file at the working size can lengthen an l2 change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advrad.data import images
from advrad.data.resize_norm import read_norm
from advrad.data.transforms import resize


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
