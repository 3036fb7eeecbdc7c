"""One function says whether there are enough normal images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advrad.data.splits import normals_for_tiles, normals_needed, normals_to_train, split_for_memory, split_sizes
from advrad.data.sufficiency import NormalCount, check_enough, refusal
from advrad.errors import ConfigError, DataError

RATES = st.floats(0.01, 0.5)


@given(st.integers(0, 300), RATES)
def test_the_closed_form_is_refused_just_where_it_cannot_divide_the_images(count: int, rate: float) -> None:
    assert (refusal(NormalCount(count), rate) is None) == (split_for_memory(count, rate) is not None)


@given(RATES)
def test_as_many_as_are_asked_for_suffice(rate: float) -> None:
    for learned, tiles, enough in (
        (False, False, max(2, normals_needed(rate))),
        (False, True, normals_for_tiles(rate)),
        (True, False, normals_to_train(rate)),
    ):
        check_enough(NormalCount(enough), rate, learned=learned, tiles=tiles)
        assert refusal(NormalCount(enough - 1), rate, learned=learned, tiles=tiles) is not None


@given(st.integers(8, 400), RATES)
def test_a_split_uses_every_image_once(count: int, rate: float) -> None:
    train, selection, calibration = split_sizes(count, rate)
    assert train + selection + calibration == count and train >= count / 2 and selection >= 2


def test_the_words_say_what_was_left_out() -> None:
    assert NormalCount(20).describe() == "20"
    assert NormalCount(1, 12, 47).describe() == "1 (of 60; 12 are kept for testing, 47 are copies of others)"
    assert NormalCount(7, 1, 1, 1).describe() == (
        "7 (of 10; 1 is kept for testing, 1 is a copy of another, 1 cannot be read)"
    )
    with pytest.raises(
        ConfigError, match=r"there are 16 \(of 20; 4 are kept for testing\); .* a rate of 0.0589 or more"
    ):
        check_enough(NormalCount(16, kept_for_testing=4), 0.05)
    with pytest.raises(ConfigError, match=r"there are 1 \(of 60; 59 are copies of others\); add normal images$"):
        check_enough(NormalCount(1, copies=59), 0.05)
    with pytest.raises(DataError, match=r"5 \(of 6; 1 cannot be read\) normal images to train on; at least 8"):
        check_enough(NormalCount(5, unreadable=1), 0.2, learned=True)
