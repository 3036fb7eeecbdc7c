"""Images of another shape than those of the training are refused or named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from advrad.data.records import Record
from advrad.data.shapes import ShapeRecord, check_shape, check_shapes, choose_shape, record_shapes
from advrad.errors import ImageError

SHAPES = ShapeRecord.of([(320, 200), (330, 200), (320, 210)])


def file(folder: Path, width: int, height: int) -> Path:
    path = folder / f"{width}x{height}.png"
    Image.new("L", (width, height), 90).save(path)
    return path


def test_shapes_are_summarised() -> None:
    assert (SHAPES.width_px, SHAPES.height_px, SHAPES.median_px) == ((320, 330), (200, 210), (320, 200))
    assert SHAPES.aspect == (round(320 / 210, 6), 1.65)
    assert ShapeRecord.parse(SHAPES.model_dump(mode="json"), "config.json") == SHAPES


@pytest.mark.parametrize(("width", "height"), [(320, 200), (340, 200), (320, 215), (600, 380), (170, 106)])
def test_images_like_those_of_the_training_pass(width: int, height: int) -> None:
    assert SHAPES.doubt(width, height) is None


@pytest.mark.parametrize(
    ("width", "height", "refused", "words"),
    [
        (320, 160, False, "aspect ratio differs by a factor of 1.21"),
        (200, 320, True, "aspect ratio differs by a factor of 2.44"),
        (700, 200, True, "aspect ratio differs by a factor of 2.12"),
        (1600, 1000, False, "resolution differs by a factor of 4.8"),
        (80, 50, False, "resolution differs by a factor of 4"),
    ],
)
def test_other_images_are_doubted(width: int, height: int, refused: bool, words: str) -> None:
    doubt = SHAPES.doubt(width, height)
    assert doubt is not None and doubt.refused == refused
    assert words in doubt.reason and f"{width} x {height}" in doubt.reason and "320 x 200 to 330 x 210" in doubt.reason


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    assert check_shape(file(tmp_path, 320, 200), SHAPES, 10**6) is None
    assert check_shape(file(tmp_path, 500, 40), None, 10**6) is None, "nothing is known of older models"
    with pytest.raises(ImageError, match="500 x 40 px, but the model was trained on images of 320 x 200") as caught:
        check_shape(file(tmp_path, 500, 40), SHAPES, 10**6)
    assert "cut it" in caught.value.reason


def test_many_files_are_summed_up(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    paths = [file(tmp_path, *size) for size in ((320, 200), (320, 160), (320, 165), (500, 40))]
    records = [Record(path, "test", 0, "good") for path in (*paths, tmp_path / "broken.png")]
    found = check_shapes(records, SHAPES, 10**6)
    assert [record.path.name for record in found.records] == ["320x200.png", "320x160.png", "320x165.png", "broken.png"]
    assert [error.path.name for error in found.refused] == ["500x40.png"]
    assert len(found.warnings) == 1 and "320x160.png" in found.warnings[0] and "1 further" in found.warnings[0]
    assert check_shapes(records, None, 10**6).records == tuple(records)
    recorded = record_shapes(records, 10**6)
    assert recorded is not None and recorded.width_px == (320, 500)


@pytest.mark.parametrize(
    ("sizes", "shape", "words"),
    [
        ([(256, 256)], "stretch", ""),
        ([(640, 480), (650, 480)], "stretch", ""),
        ([(320, 190)], "stretch", "squeezed to squares, one side up to 1.68 times"),
        ([(300, 200), (200, 300)], "pad", "padded"),
        ([(600, 200)], "pad", "squeezed up to 3 times"),
        ([(8000, 200)], "tiles", "tiles"),
        ([(100, 900), (100, 910)], "tiles", "tiles"),
        ([(900, 100), (300, 100)], "pad", "padded"),
    ],
)
def test_the_shape_follows_from_the_images(sizes: list[tuple[int, int]], shape: str, words: str) -> None:
    choice = choose_shape(ShapeRecord.of(sizes))
    assert choice.shape == shape
    assert (choice.note is None) if not words else (choice.note is not None and words in choice.note)


def test_what_the_user_wants_counts_and_its_price_is_said() -> None:
    choice = choose_shape(ShapeRecord.of([(8000, 200)]), "stretch")
    assert choice.shape == "stretch" and choice.note is not None and "40 times" in choice.note
