"""Heat maps that show which half sees what."""

from __future__ import annotations

import numpy as np
import pytest

from advrad.errors import DataError
from advrad.inference.half_maps import BLUE, draw_half_maps, half_legend, with_legend
from advrad.inference.heatmaps import WHITE

GREY = np.full((64, 64, 3), 0.4, np.float32)


def spot(value: float, top: int = 2) -> np.ndarray:
    values = np.zeros((16, 16))
    values[top : top + 4, 4:8] = value
    return values


def has(image: np.ndarray, colour: tuple[float, float, float]) -> bool:
    return bool((image == np.float32(colour)).all(axis=2).any())


@pytest.mark.parametrize(
    ("memory", "features", "white", "blue"),
    [(3.0, 0.0, True, False), (0.0, 3.0, False, True), (3.0, 3.0, True, True), (0.9, 0.9, False, False)],
)
def test_each_half_has_its_own_line(memory: float, features: float, white: bool, blue: bool) -> None:
    drawn = draw_half_maps(GREY, [spot(memory), spot(features)])
    assert (has(drawn, WHITE), has(drawn, BLUE)) == (white, blue)
    assert drawn.shape == GREY.shape


def test_colours_show_the_largest_map_and_a_quiet_image_stays_as_it_is() -> None:
    one = draw_half_maps(GREY, [spot(3.0), spot(0.0)])
    other = draw_half_maps(GREY, [spot(0.0), spot(3.0)])
    centre = (slice(12, 20), slice(20, 28))
    np.testing.assert_array_equal(one[centre], other[centre])
    assert not np.array_equal(one[centre], GREY[centre])
    np.testing.assert_array_equal(draw_half_maps(GREY, [spot(0.4), spot(0.4)]), GREY)


def test_the_line_of_other_halves_is_broken_and_lies_outside_that_of_the_memory() -> None:
    drawn = draw_half_maps(GREY, [spot(3.0), spot(3.0)])
    white = np.argwhere((drawn == np.float32(WHITE)).all(axis=2))
    blue = np.argwhere((drawn == np.float32(BLUE)).all(axis=2))
    assert blue.min() < white.min() and blue.max() > white.max()
    top = drawn[blue[:, 0].min(), blue[:, 1].min() : blue[:, 1].max()]
    assert (np.diff((top == np.float32(BLUE)).all(axis=1).astype(int)) != 0).sum() >= 2, "blue and dark take turns"


def test_halves_beside_the_first_share_a_line() -> None:
    drawn = draw_half_maps(GREY, [spot(0.0), spot(3.0, top=1), spot(3.0, top=10)])
    rows = np.argwhere((drawn == np.float32(BLUE)).all(axis=2))[:, 0]
    assert rows.min() < 16 and rows.max() > 40


def test_a_map_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="anomaly_map: a value is NaN"):
        draw_half_maps(GREY, [spot(np.nan), spot(0.0)])


@pytest.mark.parametrize("width", [24, 64, 256, 700])
def test_a_legend_in_words_is_below_the_image(width: int) -> None:
    image = np.full((40, width, 3), 0.4, np.float32)
    lines = half_legend(("memory", "features", "learned"), "linf 2/255")
    assert [line.words for line in lines] == [
        "seen by the memory",
        "seen by features or learned",
        "proven within linf 2/255",
    ]
    whole = with_legend(image, lines)
    assert whole.shape[0] > 40 and whole.shape[1:] == (width, 3) and whole.dtype == np.float32
    np.testing.assert_array_equal(whole[:40], image)
    assert (whole[40:] > 0.8).any(), "words are written"


def test_a_legend_shows_the_lines_as_they_are_drawn() -> None:
    whole = with_legend(np.zeros((8, 256, 3)), half_legend(("memory", "features")))
    assert has(whole.round(2), tuple(np.float32(BLUE).round(2))) and len(half_legend(("memory",))) == 1
