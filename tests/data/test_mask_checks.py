"""Masks that are probably wrong are doubted, and right ones are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_parts import part, spotted

from advrad.data.copies import fingerprints
from advrad.data.images import read_mask
from advrad.data.loading import resize_array
from advrad.data.mask_checks import MaskChecks, doubt_mask, small_mask

Mask = npt.NDArray[np.bool_]


def small(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    values = np.rint(resize_array(image.astype(np.float32) / 255, 64)[None] * 65535).astype(np.uint16)
    return fingerprints(values).small[0]


NORMALS = np.stack([small(part(seed)) for seed in range(20)])
SPOTS = [spotted(seed) for seed in range(100, 108)]


def checked(change: Callable[[int], Mask]) -> MaskChecks:
    checks = MaskChecks()
    for place, (image, _) in enumerate(SPOTS):
        mask = change(place)
        checks.add(f"{place}.png", doubt_mask(mask), small_mask(mask), small(image))
    return checks


def test_right_masks_are_believed() -> None:
    checks = checked(lambda place: SPOTS[place][1])
    assert checks.warnings(NORMALS) == [] and checks.empty() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda place: ~SPOTS[place][1], "the wrong way round: 8 of 8"),
        (lambda place: np.ones_like(SPOTS[place][1]), "the wrong way round: 8 of 8"),
        (lambda place: SPOTS[place][1][::-1], "do not mark what differs from the normal images: 8 of 8"),
        (lambda place: np.pad(np.ones((60, 60), dtype=bool), 18), "the product instead of the defect: 8 of 8"),
    ],
    ids=["inverted", "all", "elsewhere", "product"],
)
def test_wrong_masks_are_doubted(change: Callable[[int], Mask], words: str) -> None:
    (warning,) = checked(change).warnings(NORMALS)
    assert words in warning and "(0.png, 1.png, 2.png, ...)" in warning and "look at them" in warning


def test_masks_that_mark_nothing_are_named() -> None:
    checks = checked(lambda place: SPOTS[place][1] & (place != 3))
    assert checks.warnings(NORMALS) == []
    (note,) = checks.empty()
    assert "whose masks mark nothing: 1 of 8 (3.png)" in note


def test_without_enough_normal_images_the_place_cannot_be_told() -> None:
    assert checked(lambda place: SPOTS[place][1][::-1]).warnings(NORMALS[:9]) == []


def test_where_products_lie_anywhere_the_place_cannot_be_told() -> None:
    anywhere = np.stack([small(part(seed, shift=30)) for seed in range(30)])
    assert checked(lambda place: SPOTS[place][1][::-1]).warnings(anywhere) == []


def test_photos_are_no_masks(tmp_path: Path) -> None:
    image, mask = spotted(5)
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize((192, 192), Image.Resampling.BICUBIC)
    files = {
        "photo.png": Image.fromarray(image),
        "grey.jpg": Image.fromarray(image).convert("L"),
        "soft.png": soft,
        "mask.jpg": soft,
        "classes.png": Image.fromarray(mask.astype(np.uint8) * 3 + np.roll(mask, 30, axis=1) * np.uint8(9)),
    }
    found = {}
    for name, content in files.items():
        content.save(tmp_path / name)
        found[name] = doubt_mask(read_mask(tmp_path / name), tmp_path / name)
    assert found == {"photo.png": "photo", "grey.jpg": "photo", "soft.png": None, "mask.jpg": None, "classes.png": None}


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 70), st.integers(20, 70), st.data())
def test_a_rectangle_of_less_than_half_the_image_is_believed_and_its_inverse_is_not(
    height: int, width: int, data: st.DataObject
) -> None:
    mask = np.zeros((height, width), dtype=np.bool_)
    rows = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    columns = sorted(data.draw(st.lists(st.integers(0, width // 2), min_size=2, max_size=2, unique=True)))
    mask[slice(*rows), slice(*columns)] = True
    assert doubt_mask(mask) is None
    if mask.mean() < 0.1:
        assert doubt_mask(~mask) == "inverted"
