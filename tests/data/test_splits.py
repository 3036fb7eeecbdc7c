"""The split of normal images into training, selection and calibration."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.data import splits
from advrad.data.records import Record
from advrad.errors import ConfigError, DataError


def _normals(n: int, root: str = "data/train/good") -> list[Record]:
    return [Record(Path(root, f"{i:04}.png"), "train", 0, "good") for i in range(n)]


def _others() -> list[Record]:
    return [
        Record(Path("data/test/good/0001.png"), "test", 0, "good"),
        Record(Path("data/test/rust/0001.png"), "test", 1, "rust"),
    ]


def _sizes(n: int, rate: float = 0.05) -> tuple[int, int, int]:
    split = splits.split_normals(_normals(n), 0, false_alarm_rate=rate)
    return len(split.train), len(split.selection), len(split.calibration)


@settings(deadline=None)
@given(
    n=st.integers(8, 300),
    seed=st.integers(0, 2**40),
    rate=st.floats(0.001, 0.9),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_parts_are_disjoint_complete_and_repeatable(n: int, seed: int, rate: float, shuffle: random.Random) -> None:
    records = _normals(n)
    split = splits.split_normals(records, seed, false_alarm_rate=rate)
    together = [*split.train, *split.selection, *split.calibration]
    assert sorted(r.path for r in together) == [r.path for r in records]
    assert len(set(together)) == n
    assert len(split.train) >= n / 2
    assert len(split.selection) >= 2
    assert len(split.calibration) >= 2
    mixed = [*records, *_others()]
    shuffle.shuffle(mixed)
    assert splits.split_normals(mixed, seed, false_alarm_rate=rate) == split


def test_the_split_depends_on_the_seed_not_the_folder() -> None:
    here = splits.split_normals(_normals(100), 0)
    there = splits.split_normals(_normals(100, "/elsewhere/x/train/good"), 0)
    assert [r.path.name for r in here.calibration] == [r.path.name for r in there.calibration]
    assert splits.split_normals(_normals(100), 1) != here


def test_removing_one_image_moves_few_others() -> None:
    before = splits.split_normals(_normals(200), 0)
    after = splits.split_normals(_normals(200)[:-1], 0)
    assert len(set(after.train) - set(before.train)) <= 2


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (8, (4, 2, 2)),
        (20, (10, 2, 8)),
        (41, (21, 2, 18)),
        (42, (21, 2, 19)),
        (48, (24, 5, 19)),
        (209, (146, 21, 42)),
        (756, (528, 76, 152)),
    ],
)
def test_sizes_of_the_parts(n: int, sizes: tuple[int, int, int]) -> None:
    assert _sizes(n) == sizes


def test_calibration_gets_what_the_rate_needs() -> None:
    assert _sizes(209, 0.01)[2] == 99
    assert _sizes(209, 0.01)[1] == 5
    assert _sizes(400, 0.1)[2] == 80
    # At 5 %, 19 calibration images are the fewest: the conformal quantile is then the largest score.
    for rate in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        calibration = _sizes(1000, rate)[2]
        assert np.ceil((calibration + 1) * (1 - rate) - 1e-9) <= calibration


def test_too_few_normals_and_a_wrong_rate() -> None:
    for n, words in [(0, "0 normal images"), (1, "1 normal image to"), (7, "7 normal images")]:
        with pytest.raises(DataError, match=f"{words}.*at least 8 are needed"):
            splits.split_normals([*_normals(n), *_others()], 0)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="false_alarm_rate"):
            splits.split_normals(_normals(20), 0, false_alarm_rate=rate)


# --- what the closed form does with the images ---


@pytest.mark.parametrize(
    ("normals", "expected"),
    [
        (18, None),
        (19, (19, 0, 19)),
        (28, (28, 0, 28)),
        (29, (29, 10, 19)),
        (64, (64, 43, 21)),
        (65, (43, 43, 22)),
        (400, (267, 267, 133)),
    ],
)
def test_all_images_are_the_memory_until_there_are_many(normals: int, expected: tuple[int, int, int] | None) -> None:
    split = splits.split_for_memory(normals)
    assert split == (None if expected is None else splits.MemorySplit(*expected))
    if split is not None:
        assert split.leaves_one_out == (normals <= splits.ALL_IN_MEMORY)


@given(normals=st.integers(2, 500), rate=st.floats(0.005, 0.5))
@settings(max_examples=200, deadline=None)
def test_the_images_of_the_threshold_suffice_for_the_rate(normals: int, rate: float) -> None:
    split, needed = splits.split_for_memory(normals, rate), splits.normals_needed(rate)
    if split is None:
        assert normals < max(2, needed)
    else:
        assert split.threshold >= needed and split.memory <= normals
        assert split.choice == 0 or split.choice + split.threshold == normals


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.2])
def test_so_many_images_are_needed_to_train(rate: float) -> None:
    enough = splits.normals_to_train(rate)
    assert _sizes(enough, rate)[1] >= 2 and _sizes(enough, rate)[2] >= splits.normals_needed(rate)
    assert enough == splits.MIN_NORMALS or _sizes(enough - 1, rate)[2] < splits.normals_needed(rate)
