"""The choice of vectors against a slow search, and of positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_models import generator

from advrad.training.coreset import farthest_points, fixed_positions


def test_the_farthest_is_chosen_in_turn() -> None:
    points = torch.randn(60, 5, generator=generator(1))
    first = int(torch.randint(60, (1,), generator=generator(0)))
    chosen = [first]
    values = points.double().numpy()
    while len(chosen) < 20:
        nearest = np.linalg.norm(values[:, None] - values[chosen], axis=2).min(1)
        chosen.append(int(nearest.argmax()))
    assert farthest_points(points, 20, generator(0)).tolist() == sorted(chosen)


def test_chosen_vectors_are_near_all_others() -> None:
    """Three clusters of very different sizes in many dimensions: each one is represented."""
    centres = 10 * torch.randn(3, 200, generator=generator(1))
    vectors = torch.cat([centres[:1].repeat(500, 1), centres[1:2].repeat(3, 1), centres[2:]])
    vectors = vectors + 0.01 * torch.randn(vectors.shape, generator=generator(2))
    chosen = farthest_points(vectors, 3, generator(3)).tolist()
    assert sorted({min(row // 500 + (row == 503), 2) for row in chosen}) == [0, 1, 2]


def test_copies_are_not_chosen_twice() -> None:
    vectors = torch.randn(10, 3, generator=generator(1)).repeat(4, 1)
    chosen = farthest_points(vectors, 30, generator(2))
    assert len(chosen.unique()) == 30
    assert len(vectors[farthest_points(vectors, 10, generator(2))].unique(dim=0)) == 10


def test_few_vectors_are_all_kept_and_the_seed_decides() -> None:
    vectors = torch.randn(400, 100, generator=generator(1))
    assert torch.equal(farthest_points(vectors, 400, generator(0)), torch.arange(400))
    first, again, other = (farthest_points(vectors, 50, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_progress_never_exceeds_what_was_chosen() -> None:
    steps: list[int] = []
    farthest_points(torch.randn(700, 2, generator=generator(1)), 600, generator(0), steps.append)
    assert steps == [256, 256]


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), count=st.integers(1, 400))
def test_positions_are_a_fixed_part_of_the_grid(rows: int, columns: int, count: int) -> None:
    found = fixed_positions(rows, columns, count).tolist()
    assert 1 <= len(found) <= count
    assert found == sorted(set(found)) and found[0] >= 0 and found[-1] < rows * columns
    if rows * columns <= count:
        assert len(found) == rows * columns


@pytest.mark.parametrize(("count", "expected"), [(1024, 1024), (1023, 512), (300, 256), (128, 128), (1, 1)])
def test_patterns_halve(count: int, expected: int) -> None:
    found = fixed_positions(32, 32, count)
    assert len(found) == expected
    rows, columns = found // 32, found % 32
    if expected > 1:  # evenly: the middle is that of the grid, up to the coarseness of the pattern
        assert abs(float(rows.float().mean()) - 15.5) <= 2 and abs(float(columns.float().mean()) - 15.5) <= 2
