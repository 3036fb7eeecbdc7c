"""Heat maps and outlines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from advrad.errors import ConfigError, DataError
from advrad.inference.heatmaps import _HEAT, GREEN, _resized, draw_proven_area, heat_overlay, outline

GREY = np.full((24, 32, 3), 0.5, dtype=np.float32)


def test_a_normal_image_is_unchanged() -> None:
    image = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
    score_map = np.random.default_rng(1).random((12, 16))
    np.testing.assert_array_equal(heat_overlay(image, score_map, 1.0, 2.0), image)


def test_scale_is_fixed_and_rising() -> None:
    changes = []
    for level in (0.1, 0.4, 0.7, 1.0):
        result = heat_overlay(GREY, np.full((6, 8), level), 0.0, 1.0)
        assert result.shape == GREY.shape and result.dtype == np.float32
        assert result.min() >= 0.0 and result.max() <= 1.0
        assert np.ptp(result[..., 0]) == 0.0
        changes.append(np.abs(result - GREY).sum())
    assert changes == sorted(changes) and changes[0] > 0.0
    # A map above the scale looks like one at its end, except for the outline, which a full map does not have.
    np.testing.assert_array_equal(heat_overlay(GREY, np.full((6, 8), 9.0), 0.0, 1.0), result)
    lightness = _HEAT @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0.05).all()


def test_outline_where_the_map_passes_high() -> None:
    score_map = np.zeros((24, 32))
    score_map[8:16, 8:16] = 2.0
    result = heat_overlay(GREY, score_map, 0.0, 1.0)
    np.testing.assert_array_equal(result[8, 8:16], 1.0)
    np.testing.assert_array_equal(result[8:16, 15], 1.0)
    assert (result[7, 8:16] < 0.1).all()
    assert result[12, 12, 0] != 1.0
    np.testing.assert_array_equal(result[:6], 0.5)


def test_outline_resizes_and_leaves_the_edge_open() -> None:
    mask = np.zeros((12, 16), dtype=bool)
    mask[:, 8:] = True
    result = outline(GREY, mask, (1.0, 0.0, 0.0))
    np.testing.assert_array_equal(result[:, 16], np.tile(np.float32([1.0, 0.0, 0.0]), (24, 1)))
    assert (result[:, 15] < 0.1).all()
    np.testing.assert_array_equal(result[:, 17:], 0.5)
    np.testing.assert_array_equal(outline(GREY, mask & False), GREY)
    large = outline(np.zeros((600, 600, 3)), mask)
    assert (large[300] != 0).any(axis=1).sum() == 4  # two pixels inside, two outside
    assert (GREY == 0.5).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_resize_equals_torch(height: int, width: int, rows: int, columns: int) -> None:
    values = np.random.default_rng(height).random((height, width))
    size = (height * rows, width * columns)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size=size, mode="bilinear")
    np.testing.assert_allclose(_resized(values, *size), expected[0, 0].numpy(), atol=1e-12)


def grown(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask and its 4-neighbours, ``steps`` times."""
    for _ in range(steps):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask


@pytest.mark.parametrize("size", [(40, 30), (700, 300), (5, 900)])
def test_outlines_have_the_right_thickness(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(size) > 0.97
    result = outline(np.full((*size, 3), 0.5), mask, (1.0, 0.0, 0.0))
    steps = max(1, round(max(size) / 256))
    red = (result == [1.0, 0.0, 0.0]).all(axis=2)
    dark = (result < 0.1).all(axis=2)
    np.testing.assert_array_equal(red, mask & grown(~mask, steps))
    np.testing.assert_array_equal(dark, grown(mask, steps) & ~mask)


def test_the_proven_area_is_where_the_lower_bound_passes_the_level() -> None:
    lower = np.zeros((24, 32))
    lower[4:20, 6:26] = 0.7  # above the level
    lower[:, 0] = 0.5  # at the level, not above it
    drawn = draw_proven_area(GREY, lower, level=0.5)
    area = lower > 0.5
    border = area & grown(~area, 2)
    green, dark = (drawn == np.float32(GREEN)).all(axis=2), (drawn < 0.1).all(axis=2)
    assert (green | dark)[border].all(), "the whole border is drawn"
    assert not (green & ~border).any() and not (dark & ~border & ~(grown(area, 1) & ~area)).any()
    np.testing.assert_array_equal(drawn[area & ~border], 0.5)
    np.testing.assert_array_equal(draw_proven_area(GREY, lower, level=0.7), GREY)


@pytest.mark.parametrize("line", [np.eye(64, dtype=bool), np.eye(64, dtype=bool)[::-1], np.ones((64, 1), dtype=bool)])
def test_a_broken_line_differs_without_its_colour(line: NDArray[np.bool_]) -> None:
    """Its lightness changes along the line, while the other outlines have one lightness."""
    mask = grown(np.pad(line, 8), 5)
    image = np.full((*mask.shape, 3), 0.5)
    for broken, low, high in ((False, 1.0, 1.0), (True, 0.2, 0.8)):
        drawn = outline(image, mask, GREEN, broken=broken)
        border = mask & grown(~mask, 2 if broken else 1)
        assert low <= (drawn[border].mean(axis=1) > 0.3).mean() <= high


def test_the_proven_area_of_a_damaged_model_is_refused() -> None:
    with pytest.raises(DataError, match="lower_map: a value is NaN"):
        draw_proven_area(GREY, np.full((2, 2), np.nan), 0.5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: heat_overlay(GREY[..., 0], np.ones((2, 2)), 0, 1), DataError, r"shape \(h, w, 3\)"),
        (lambda: heat_overlay(GREY * np.nan, np.ones((2, 2)), 0, 1), DataError, "image: a value is NaN"),
        (lambda: heat_overlay(GREY, np.ones((1, 2, 2)), 0, 1), DataError, "anomaly_map"),
        (lambda: heat_overlay(GREY, np.ones((0, 2)), 0, 1), DataError, "anomaly_map"),
        (lambda: heat_overlay(GREY, np.full((2, 2), np.inf), 0, 1), DataError, "anomaly_map"),
        (lambda: heat_overlay(GREY, np.ones((2, 2)), 1, 1), ConfigError, "low must be below high"),
        (lambda: heat_overlay(GREY, np.ones((2, 2)), 0, np.nan), ConfigError, "low must be below high"),
        (lambda: outline(GREY, np.ones((2, 2, 1))), DataError, "mask"),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
