"""What a sticker leaves of a score, against every square and against real stickers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advrad.data.transforms import resize
from advrad.detectors.scoring import pool
from advrad.detectors.sticker import SiteScores, Spans, sticker_bound


def largest(values: Tensor) -> Tensor:
    return values.amax((1, 2, 3))


def mean_of_largest(values: Tensor) -> Tensor:
    return pool(values, 0.1)


def every_square(member: SiteScores, height_px: int, width_px: int, side_px: int) -> Tensor:
    """The least score over all squares, by trying each."""
    found = []
    for y in range(max(height_px - side_px, 0) + 1):
        for x in range(max(width_px - side_px, 0) + 1):
            rows = (member.rows.last >= y) & (member.rows.first < y + side_px)
            columns = (member.columns.last >= x) & (member.columns.first < x + side_px)
            touched = torch.from_numpy(rows[:, None] & columns)
            found.append(member.pool(torch.where(touched, member.least, member.values)))
    return torch.stack(found).amin(0)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(12, 40),
    width=st.integers(12, 40),
    side=st.integers(1, 45),
    patch=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 1000),
)
def test_the_bound_is_the_worst_of_all_squares(
    height: int, width: int, side: int, patch: int, stride: int, seed: int
) -> None:
    starts = list(range(0, 8 - patch + 1, stride))
    rows, columns = (Spans.of(length, 16, 2, starts, patch) for length in (height, width))
    values = torch.randn(2, 1, len(starts), len(starts), generator=torch.Generator().manual_seed(seed))
    least = torch.full_like(values[:1], -4)
    exact = SiteScores(values, least, largest, rows, columns)
    assert torch.equal(sticker_bound([exact], height, width, side), every_square(exact, height, width, side))
    mean = SiteScores(values, least, mean_of_largest, rows, columns)
    assert (sticker_bound([mean], height, width, side) <= every_square(mean, height, width, side) + 1e-6).all()


def test_members_share_the_place_of_the_sticker() -> None:
    spans = Spans(np.arange(6), np.arange(6))
    maps = torch.zeros(2, 1, 1, 6, 6)
    maps[0, 0, 0, 0, 0], maps[1, 0, 0, 5, 5] = 3.0, 2.0
    members = [SiteScores(one, torch.zeros(1), largest, spans, spans) for one in maps]
    # Each member alone loses its only spot; no square covers both.
    assert [float(sticker_bound([one], 6, 6, 2)) for one in members] == [0, 0]
    assert float(sticker_bound(members, 6, 6, 2)) == 2
    assert float(sticker_bound(members, 6, 6, 6)) == 0


PATCH, STARTS = 3, list(range(6))


def distances(images: Tensor) -> Tensor:
    """A score like the detector's: patches of cells of the resized image."""
    return F.avg_pool2d(F.avg_pool2d(resize(images, 16), 2), PATCH, 1).mean(1, keepdim=True)


def left_by_stickers(image: Tensor, side: int) -> float:
    """The least score over black stickers at every place; black is the least that these patches can show."""
    left = []
    for y in range(image.shape[2] - side + 1):
        for x in range(image.shape[3] - side + 1):
            covered = image.clone()
            covered[:, :, y : y + side, x : x + side] = 0
            left.append(float(largest(distances(covered))))
    return min(left)


@pytest.mark.parametrize(("shape", "side"), [((16, 16), 3), ((24, 40), 3), ((33, 64), 9), ((12, 9), 2), ((9, 16), 8)])
def test_no_sticker_changes_what_the_bound_keeps(shape: tuple[int, int], side: int) -> None:
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(side))
    rows, columns = (Spans.of(length, 16, 2, STARTS, PATCH) for length in shape)
    bound = float(sticker_bound([SiteScores(distances(image), torch.zeros(1), largest, rows, columns)], *shape, side))
    assert left_by_stickers(image, side) >= bound - 1e-6
    assert (bound > 0) is (side < 8 or shape == (33, 64))


def test_patches_taken_for_narrower_than_they_are_give_a_wrong_bound() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, 5, 5] = 1.0
    spans = Spans.of(16, 16, 2, STARTS, PATCH)
    narrow = Spans(spans.first + 1, spans.last - 1)
    bounds = [
        float(sticker_bound([SiteScores(distances(image), torch.zeros(1), largest, one, one)], 16, 16, 1))
        for one in (spans, narrow)
    ]
    assert bounds[0] == left_by_stickers(image, 1) == 0 < bounds[1]
