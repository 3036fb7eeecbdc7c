"""Resizing takes weighted means, for every size: what moves no pixel by more than eps moves no result by more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advrad.data.resize_norm import resize_matrix
from advrad.data.transforms import resize

#: Lengths from one pixel to a large camera, shrunk and enlarged, by whole factors and others.
LENGTHS, SIZES = st.integers(1, 5000), st.integers(1, 512)


@settings(max_examples=150, deadline=None)
@given(length=LENGTHS, size=SIZES)
@example(length=1, size=256)
@example(length=255, size=256)
@example(length=257, size=256)
@example(length=256, size=257)
@example(length=4096, size=256)
@example(length=2049, size=2)
@example(length=3, size=512)
def test_weights_are_not_negative_and_sum_to_1(length: int, size: int) -> None:
    matrix = resize_matrix(length, size)
    assert matrix.shape == (size, length) and (matrix >= 0).all()
    terms = 2 * length / size + 4  # rounding of so many weights in float32
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=terms * 2**-24)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 70), seed=st.integers(0, 99))
def test_resizing_is_this_matrix_and_moves_nothing_by_more(height: int, width: int, size: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=draws)
    rows, columns = (torch.from_numpy(resize_matrix(length, size)) for length in (height, width))
    found = resize(image, size)
    torch.testing.assert_close(found.double(), rows @ image.double() @ columns.mT, rtol=0, atol=2e-6)
    eps = 0.1
    for change in (torch.rand(image.shape, generator=draws).sub(0.5).sign() * eps, torch.full_like(image, eps)):
        assert (resize(image + change, size) - found).abs().max() <= eps + 2e-6


@pytest.mark.parametrize(("length", "size"), [(60, 16), (16, 60)])
def test_a_cubic_filter_would_not_do(length: int, size: int) -> None:
    """Its weights are partly negative, so a change of eps can grow: the certificate must not be computed with it."""
    ones = torch.eye(length)[None, None]
    matrix = F.interpolate(ones, size=(size, length), mode="bicubic", antialias=True)[0, 0]
    assert matrix.min() < 0 and matrix.abs().sum(1).max() > 1.05
    worst = 0.1 * matrix[matrix.abs().sum(1).argmax()].sign()
    assert (matrix @ worst).abs().max() > 0.105
