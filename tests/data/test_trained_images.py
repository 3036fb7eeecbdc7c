"""Test images that were trained on are known again, whatever their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_parts import write_parts

from advrad.data.copies import fingerprints
from advrad.data.framing import Framing
from advrad.data.labelled import load_labelled
from advrad.data.layouts import Dataset, find_records
from advrad.data.loading import load_images
from advrad.data.options import DataOptions
from advrad.data.trained_images import (
    digests_of,
    trained_on,
    training_prints,
    warn_of_same_files,
    warn_of_shared,
    warn_of_trained,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Train and test images; two of the latter are training images, one byte for byte and one as BMP."""
    root = write_parts(tmp_path, 12, spots=2)
    first, second = (root / "train" / "good" / f"00{number}.png" for number in (0, 1))
    (root / "test" / "good" / "same.png").write_bytes(first.read_bytes())
    Image.open(second).save(root / "test" / "good" / "again.bmp")
    return root


def parts(data: Path) -> tuple[Dataset, list, list]:
    dataset = find_records(data)
    return dataset, *([r for r in dataset.records if r.split == split] for split in ("train", "test"))


def test_a_model_knows_its_images_again(data: Path) -> None:
    _, train, test = parts(data)
    seen, images = digests_of(load_images(train, 64)), load_images(test, 64)
    assert len(seen) == 24 and {len(digest) for digest in seen} == {16}
    names = [record.path.name for record in test]
    assert [names[row] for row in trained_on(test, seen, images.values)] == ["again.bmp", "same.png"]
    assert [names[row] for row in trained_on(test, seen)] == ["same.png"]
    assert trained_on(test, (), images.values) == ()
    assert warn_of_trained(names, []) == []


def test_test_images_are_compared_with_the_training_images_of_the_folder(data: Path) -> None:
    dataset, _, test = parts(data)
    (warning,) = warn_of_same_files(dataset)
    assert "byte for byte: 1 of 7 (test/good/same.png is train/good/000.png)" in warning
    found = training_prints(dataset, Framing.square(64), DataOptions())
    assert found is not None
    images = load_images(test, 64)
    names = [record.path.name for record in test]
    (warning,) = warn_of_shared(fingerprints(images.values), [r.label for r in test], names, *found)
    assert "2 of 7 test images (again.bmp has the pixels of train/good/001.png; same.png" in warning


def test_unreadable_training_images_do_not_matter(data: Path) -> None:
    for path in (data / "train" / "good").iterdir():
        path.write_bytes(b"broken")
    assert training_prints(find_records(data), Framing.square(64), DataOptions()) is None
    assert warn_of_same_files(find_records(data)) == []


def test_labelled_images_carry_the_warnings(data: Path) -> None:
    _, train, _ = parts(data)
    seen = digests_of(load_images(train, 64))
    assert load_labelled(data, 64).warnings == ()
    (warning,) = load_labelled(data, 64, seen=seen).warnings
    assert "that the model was made from: 2 of 7 (test/good/again.bmp, test/good/same.png)" in warning
    (warning,) = load_labelled(data, 64, compare_training=True).warnings
    assert "in both train and test: 2 of 7" in warning
    mask = next((data / "ground_truth" / "spot").iterdir())
    Image.fromarray(np.full((96, 96), 255, dtype=np.uint8)).save(mask)
    texts = load_labelled(data, 64, compare_training=True, seen=seen).warnings
    assert len(texts) == 2 and "the wrong way round: 1 of 2" in texts[1]
