"""Copies are found whatever their files; images that only look alike are none."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_parts import Pixels, part

from advrad.data.copies import Copy, Fingerprints, describe_copies, find_copies, find_shared, fingerprints, likeness
from advrad.data.loading import resize_array

NORMALS = [part(seed) for seed in range(40)]


def prints(images: list[Pixels]) -> Fingerprints:
    return fingerprints(np.stack([working(image) for image in images]))


def working(image: Pixels) -> npt.NDArray[np.uint16]:
    return np.rint(resize_array(image.astype(np.float32) / 255, 64) * 65535).astype(np.uint16)


def saved(image: Pixels, kind: str, **options: object) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return np.asarray(Image.open(file))


def scaled(image: Pixels, factor: float) -> Pixels:
    side = round(len(image) * factor)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def test_images_that_look_alike_are_no_copies() -> None:
    assert find_copies(prints(NORMALS)) == ()
    assert find_shared(prints([part(seed) for seed in range(100, 120)]), prints(NORMALS)) == ()


@pytest.mark.parametrize("shift", [0, 3])
def test_images_at_the_same_place_or_elsewhere_are_no_copies(shift: int) -> None:
    assert find_copies(prints([part(seed, shift=shift) for seed in range(30)])) == ()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("JPEG of quality 95", lambda image: saved(image, "JPEG", quality=95)),
        ("JPEG of quality 90", lambda image: saved(image, "JPEG", quality=90)),
        ("larger", lambda image: scaled(image, 1.5)),
        ("a little smaller", lambda image: scaled(image, 0.8)),
    ],
)
def test_copies_to_the_eye(kind: str, change: object) -> None:
    copies = [change(NORMALS[number]) for number in (3, 17, 30)]  # type: ignore[operator]
    expected = tuple(Copy(40 + row, original, exact=False) for row, original in enumerate((3, 17, 30)))
    assert find_copies(prints([*NORMALS, *copies])) == expected, kind
    shared = find_shared(prints(copies), prints(NORMALS))
    assert [copy.original for copy in shared] == [3, 17, 30], kind


def test_each_image_twice() -> None:
    doubled = [*NORMALS, *(saved(image, "JPEG", quality=92) for image in NORMALS)]
    assert [(copy.row, copy.original) for copy in find_copies(prints(doubled))] == [(40 + n, n) for n in range(40)]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_equal_pixels_are_copies_of_the_first(choice: list[int]) -> None:
    found = find_copies(prints([NORMALS[number] for number in choice]))
    first = [choice.index(number) for number in choice]
    assert found == tuple(Copy(row, original, exact=True) for row, original in enumerate(first) if original != row)
    shared = find_shared(prints([NORMALS[number] for number in choice]), prints(NORMALS[:3]))
    assert [(copy.row, copy.original) for copy in shared] == [(r, n) for r, n in enumerate(choice) if n < 3]


def test_few_images_have_exact_copies_only() -> None:
    few = [*NORMALS[:6], saved(NORMALS[0], "JPEG", quality=95), NORMALS[1]]
    assert find_copies(prints(few)) == (Copy(7, 1, exact=True),)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_that_differ_are_no_copies(value: int) -> None:
    images = [np.full((64, 64, 3), min(255, max(0, value + step)), dtype=np.uint8) for step in range(-9, 10)]
    different = len({int(image[0, 0, 0]) for image in images})
    assert len(find_copies(prints(images))) == len(images) - different


def test_images_of_any_size_have_fingerprints() -> None:
    images = np.random.default_rng(0).integers(0, 65535, (3, 3, 50, 130), dtype=np.uint16)
    assert fingerprints(images).small.shape == (3, 50, 50)
    assert fingerprints(images).small.mean() == pytest.approx(127, abs=2)
    assert len(fingerprints(images[:0])) == 0 and find_copies(fingerprints(images[:0])) == ()


def test_the_first_pairs_are_named() -> None:
    copies = [Copy(2, 0, exact=True), Copy(3, 1, exact=False), Copy(4, 0, exact=True), Copy(5, 0, exact=True)]
    text = describe_copies(copies, ["a", "b", "c", "d", "e", "f"], most=2)
    assert text == "c has the pixels of a; d looks like b; and 2 more"


def test_one_piece_again_and_again_hardly_differs() -> None:
    draws = np.random.default_rng(0)
    frames = [np.clip(NORMALS[0] + draws.integers(0, 2, NORMALS[0].shape), 0, 255).astype(np.uint8) for _ in range(30)]
    assert not find_copies(prints(frames))
    assert likeness(prints(frames)) < 1
    assert likeness(prints(frames[:20] + NORMALS[:10])) > 1
    assert likeness(prints(NORMALS)) > 5
