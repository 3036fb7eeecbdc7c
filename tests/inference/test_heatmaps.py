"""Heat maps and outlines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from advrad.detectors.config import Calibration
from advrad.errors import ConfigError, DataError
from advrad.inference.heatmaps import GREEN, WHITE, _resized, draw_heat_map, draw_proven_area, heat_overlay, outline

GREY = np.full((24, 32, 3), 0.5, dtype=np.float32)


def test_a_normal_image_is_unchanged() -> None:
    image = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
    score_map = np.random.default_rng(1).random((12, 16))
    np.testing.assert_array_equal(heat_overlay(image, score_map, 1.0, 2.0), image)


@pytest.mark.parametrize("level", [-0.5, 0.0, 0.3, 0.5])
def test_nothing_is_drawn_on_a_quiet_image(level: float) -> None:
    """Up to half way from what normal images usually reach to what they hardly exceed."""
    image = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
    np.testing.assert_array_equal(heat_overlay(image, np.full((6, 8), level), 0.0, 1.0), image)


def test_the_scale_is_fixed_and_rising() -> None:
    changes, shown = [], []
    for level in (0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0):
        result = heat_overlay(GREY, np.full((6, 8), level), 0.0, 1.0)
        assert result.shape == GREY.shape and result.dtype == np.float32
        assert result.min() >= 0.0 and result.max() <= 1.0
        assert np.ptp(result[..., 0]) == 0.0, "a line surrounds a part of an image only"
        shown.append(result[0, 0])
        changes.append(np.linalg.norm(result[0, 0] - result[0, 0].mean()))
    assert changes == sorted(changes) and changes[0] > 0.0
    np.testing.assert_array_equal(heat_overlay(GREY, np.full((6, 8), 99.0), 0.0, 1.0)[0, 0], shown[-1])
    # Whatever else an image shows, the same value has the same colour, and units of the map do not matter.
    odd = np.full((24, 32), 1.5)
    odd[:4, :4] = 40.0
    np.testing.assert_array_equal(heat_overlay(GREY, odd, 0.0, 1.0)[20, 28], shown[3])
    np.testing.assert_allclose(heat_overlay(GREY, odd * 10 - 7, -7.0, 3.0)[20, 28], shown[3], atol=1e-6)


@pytest.mark.parametrize("level", [0.7, 1.0, 1.6, 2.5, 4.0, 1e6])
def test_a_defect_stays_visible_below_its_colour(level: float) -> None:
    """Every grey level of the image stays lighter than the next darker one, by most of the difference."""
    grey = np.linspace(0.0, 1.0, 32, dtype=np.float32)
    image = np.broadcast_to(grey[None, :, None], (24, 32, 3))
    drawn = heat_overlay(image, np.full((24, 32), level), 0.0, 1.0)
    lightness = drawn @ np.array([0.2126, 0.7152, 0.0722])
    kept = np.diff(lightness[0]) / np.diff(grey)
    assert (kept > 0.2).all(), "at black and white a part of the contrast goes"
    assert (kept[8:-8] > 0.7).all() and (kept <= 1.01).all()


def test_colours_differ_for_colour_blind_readers_too() -> None:
    """Amber and magenta differ in blue, which readers who confuse red and green tell from yellow."""
    near, peak = (heat_overlay(GREY, np.full((6, 8), level), 0.0, 1.0)[0, 0] for level in (1.0, 4.0))
    yellow = [float(colour[:2].mean() - colour[2]) for colour in (near, peak)]
    assert yellow[0] > 0.2 and yellow[1] < yellow[0] - 0.1


def test_a_line_surrounds_what_passes_high_and_does_not_touch_it() -> None:
    score_map = np.zeros((24, 32))
    score_map[8:16, 8:16] = 2.0
    result = heat_overlay(GREY, score_map, 0.0, 1.0)
    white = (result == np.float32(WHITE)).all(axis=2)
    area = score_map > 1.0
    np.testing.assert_array_equal(white, grown(area, 3) & ~grown(area, 2))
    assert np.ptp(result[8:16, 8:16].reshape(-1, 3), axis=0).max() == 0.0, "the region itself has its colour alone"
    np.testing.assert_array_equal(result[:4], 0.5)


def test_a_single_pixel_of_the_map_is_seen() -> None:
    score_map = np.zeros((48, 48))
    score_map[20, 30] = 1.2
    drawn = heat_overlay(np.full((480, 480, 3), 0.5), score_map, 0.0, 1.0)
    white = (drawn == np.float32(WHITE)).all(axis=2)
    assert white.sum() > 40 and not white[205, 305]


def test_a_heat_map_takes_its_scale_from_the_calibration() -> None:
    values = {"threshold": 9.0, "false_alarm_rate": 0.05, "n": 19}
    score_map = np.tile(np.linspace(0, 4, 32), (24, 1))
    drawn = draw_heat_map(GREY, score_map, Calibration(**values, heat_low=0.5, heat_high=1.5))
    np.testing.assert_array_equal(drawn, heat_overlay(GREY, score_map, 0.5, 1.5))
    for low, high in ((1.5, 1.5), (2.0, 1.5)):  # all maps alike, and a rate above one half
        drawn = draw_heat_map(GREY, score_map - high, Calibration(**values, heat_low=low - high, heat_high=0.0))
        assert (drawn[:, :4] == 0.5).all() and (drawn == np.float32(WHITE)).all(axis=2).any()


def test_outline_resizes_and_leaves_the_edge_open() -> None:
    mask = np.zeros((12, 16), dtype=bool)
    mask[:, 8:] = True
    result = outline(GREY, mask, (1.0, 0.0, 0.0))
    np.testing.assert_array_equal(result[:, 15], np.tile(np.float32([1.0, 0.0, 0.0]), (24, 1)))
    assert (result[:, 14] < 0.1).all()
    np.testing.assert_array_equal(result[:, 16:], 0.5)
    np.testing.assert_array_equal(outline(GREY, mask & False), GREY)
    np.testing.assert_array_equal(outline(GREY, mask | True), GREY)
    large = outline(np.full((600, 600, 3), 0.5), mask)
    assert (large[300] != 0.5).any(axis=1).sum() == 4  # a line of two pixels, and two dark ones
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
    np.testing.assert_array_equal(red, grown(mask, steps) & ~mask)
    np.testing.assert_array_equal(dark, grown(mask, 2 * steps) & ~grown(mask, steps))
    apart = outline(np.full((*size, 3), 0.5), mask, (1.0, 0.0, 0.0), gap=2)
    red = (apart == [1.0, 0.0, 0.0]).all(axis=2)
    np.testing.assert_array_equal(red, grown(mask, 3 * steps) & ~grown(mask, 2 * steps))


def test_the_proven_area_is_where_the_lower_bound_passes_the_level() -> None:
    lower = np.zeros((24, 32))
    lower[4:20, 6:26] = 0.7  # above the level
    lower[:, 0] = 0.5  # at the level, not above it
    drawn = draw_proven_area(GREY, lower, level=0.5)
    area = lower > 0.5
    line = grown(area, 2) & ~area
    green, dark = (drawn == np.float32(GREEN)).all(axis=2), (drawn < 0.1).all(axis=2)
    assert (green | dark)[line].all() and green.any(), "the whole line is drawn"
    assert not (green & ~line).any() and not (dark & ~grown(area, 3)).any()
    np.testing.assert_array_equal(drawn[area], 0.5)
    np.testing.assert_array_equal(draw_proven_area(GREY, lower, level=0.7), GREY)


@pytest.mark.parametrize("line", [np.eye(64, dtype=bool), np.eye(64, dtype=bool)[::-1], np.ones((64, 1), dtype=bool)])
def test_a_broken_line_differs_without_its_colour(line: NDArray[np.bool_]) -> None:
    """Its lightness changes along the line, while the other outlines have one lightness."""
    mask = grown(np.pad(line, 8), 5)
    image = np.full((*mask.shape, 3), 0.5)
    for broken, low, high in ((False, 1.0, 1.0), (True, 0.2, 0.8)):
        drawn = outline(image, mask, GREEN, broken=broken)
        border = grown(mask, 2 if broken else 1) & ~mask
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
