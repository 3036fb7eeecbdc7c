"""The range of values is taken from files or from the user, and doubted where all images together speak against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advrad.data.value_range import (
    ImageLevels,
    RangeRecord,
    check_values,
    describe_white,
    doubts,
    likely_white,
    refuse_flat,
)
from advrad.errors import DataError, ImageError

FILE = Path("part.tif")


def levels(white: float, *highs: float, low: float = 0) -> list[ImageLevels]:
    return [ImageLevels(white, low, high) for high in highs]


@pytest.mark.parametrize(("bits", "container"), [(10, 65535), (12, 65535), (14, 65535), (8, 65535), (4, 255), (1, 255)])
def test_few_bits_in_many_are_named_with_the_fix(bits: int, container: int) -> None:
    full = 2**bits - 1
    [text] = doubts(levels(container, full * 0.9, full, full * 0.7))
    assert f"the brightest value of all 3 images is {full} of {container}" in text
    assert f"with values of {bits} bit{'s' if bits > 1 else ''}, give value_range {full}" in text
    # One image that uses the range speaks for it.
    assert doubts(levels(container, full, container * 0.6)) == ()


def test_usual_images_are_not_doubted() -> None:
    assert doubts(levels(255, 80, 130, 40)) == ()
    assert doubts(levels(65535, 30000)) == ()
    assert doubts(levels(4095, 2500)) == ()
    assert doubts(levels(1, 0.4)) == ()
    assert doubts(levels(255, 255, low=245)) == ()
    assert doubts([]) == ()


def test_nearly_white_flat_and_mixed_images_are_doubted() -> None:
    [text] = doubts(levels(65535, 65000, low=61440))
    assert "the darkest value of the image is 61440 of 65535" in text
    [text] = doubts(levels(1, 1 / 255))
    assert "if another value is white, give it as value_range" in text
    [text] = doubts(levels(255, 7, 7, low=7))
    assert "each of the images shows one single value" in text
    with pytest.raises(DataError, match="lens cap"):
        refuse_flat(levels(255, 7, low=7), FILE)
    refuse_flat(levels(255, 9, 7, low=7), FILE)
    refuse_flat([], FILE)
    [text] = doubts([*levels(255, 200, 200), *levels(65535, 60000)])
    assert "2 of 8 bits (white is 255), 1 of 16 bits (white is 65535)" in text


def test_doubts_about_damage_are_counted() -> None:
    signs = [ImageLevels(255, 0, 200, "black at the end"), ImageLevels(255, 0, 200), ImageLevels(255, 0, 200)]
    assert doubts(signs) == ("1 of 3 images: black at the end",)


def test_words() -> None:
    assert describe_white(255) == "8 bits (white is 255)"
    assert describe_white(1) == "float values (white is 1)"
    assert describe_white(1000) == "values up to 1000 (white)"
    assert describe_white(0.5) == "values up to 0.5 (white)"
    assert [likely_white(high) for high in (0, 1, 2, 256, 4095, 4096, 70000)] == [1, 1, 15, 1023, 4095, 16383, None]


def test_levels_survive_json() -> None:
    for level in (ImageLevels(4095, 3, 4000, "dark"), ImageLevels(1, 0.25, 0.5)):
        assert ImageLevels.from_json(level.to_json()) == level


def test_the_record_knows_the_ranges_of_the_training() -> None:
    record = RangeRecord.of([*levels(65535, 60000, 30000), *levels(255, 255)])
    assert record.whites == (255, 65535) and record.brightest == 1
    assert record.refusal(ImageLevels(255, 0, 9)) is None
    reason = record.refusal(ImageLevels(4095, 0, 4000))
    assert reason is not None
    assert "has 12 bits (white is 4095)" in reason
    assert "trained on images of 8 bits (white is 255) and 16 bits (white is 65535)" in reason
    assert "give value_range 4095" in reason
    assert RangeRecord.parse(record.model_dump(mode="json")) == record


def test_check_values() -> None:
    values = np.array([[3, 900]], np.uint16)
    assert check_values(FILE, values, 65535, "16-bit grey") == ImageLevels(65535, 3, 900)
    assert check_values(FILE, values, 65535, "16-bit grey", 1023) == ImageLevels(1023, 3, 900)
    with pytest.raises(ImageError, match="from 3 to 900, but 255 shall be white"):
        check_values(FILE, values, 65535, "16-bit grey", 255)
    with pytest.raises(ImageError, match="no value exceeds 255, but 4095 shall be white"):
        check_values(FILE, values.astype(np.uint8), 255, "8-bit grey", 4095)
    assert check_values(FILE, values.astype(np.uint8), 255, "8-bit grey", 255).white == 255
