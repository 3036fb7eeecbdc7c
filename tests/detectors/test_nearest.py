"""Nearest neighbours against a slow search, their gradients, and feature maps side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_models import assert_gradient, generator

from advrad.detectors.nearest import concatenate_maps, flatten_positions, nearest_neighbours


@pytest.mark.parametrize("count", [1, 3, 50])
def test_nearest_are_those_of_a_slow_search(count: int) -> None:
    queries = torch.randn(300, 5, generator=generator(1))  # more than one chunk
    bank = torch.randn(40, 5, generator=generator(2))
    squared, rows = nearest_neighbours(queries, bank, count)
    all_distances = np.array([[((q - b) ** 2).sum() for b in bank.double().numpy()] for q in queries.double().numpy()])
    assert squared.shape == rows.shape == (300, min(count, 40))
    np.testing.assert_allclose(squared, np.sort(all_distances, 1)[:, :count], rtol=1e-5)
    # Compare distances: neighbours that differ in the last digit only may come in either order.
    np.testing.assert_allclose(np.take_along_axis(all_distances, rows.numpy(), 1), squared, rtol=1e-5)
    assert all(len(set(row)) == len(row) for row in rows.tolist()), "nobody is named twice"


@pytest.mark.parametrize("size", [1, 127, 128, 129, 500])
def test_the_nearest_one_is_found_in_banks_of_any_size(size: int) -> None:
    bank = torch.randn(size, 7, generator=generator(6))
    queries = torch.cat([bank + 1e-3, torch.randn(20, 7, generator=generator(7))])
    squared, rows = nearest_neighbours(queries, bank, 1)
    expected = torch.cdist(queries.double(), bank.double()).square()
    assert torch.equal(rows[:, 0], expected.argmin(1))
    torch.testing.assert_close(squared.double(), expected.amin(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_of_equal_neighbours_the_first_is_taken() -> None:
    bank = torch.randn(3, 4, generator=generator(8)).repeat(200, 1)
    assert torch.equal(nearest_neighbours(bank[:3], bank, 1)[1][:, 0], torch.arange(3))


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    queries = 1000 + torch.randn(30, 4, generator=generator(1))
    squared, _ = nearest_neighbours(queries, queries + 1e-3, 1)
    torch.testing.assert_close(squared, torch.full_like(squared, 4e-6), rtol=0.3, atol=0)
    assert nearest_neighbours(queries, queries.clone(), 1)[0].max() == 0


def test_distances_have_exact_gradients() -> None:
    bank = torch.randn(20, 4, generator=generator(3)).double()
    queries = torch.randn(6, 4, generator=generator(4), dtype=torch.float64)
    assert_gradient(lambda q: nearest_neighbours(q, bank, 3)[0], queries)


def test_maps_side_by_side_keep_their_values_and_places() -> None:
    fine = torch.rand(2, 3, 8, 8, generator=generator(6))
    ramp = torch.arange(0.5, 4).view(4, 1).expand(2, 2, 4, 4)  # the row of each cell's centre, in cells
    maps = concatenate_maps([fine, ramp])
    assert maps.shape == (2, 5, 8, 8)
    assert torch.equal(maps[:, :3], fine)
    expected = torch.tensor([0.5, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.5])
    torch.testing.assert_close(maps[:, 3:], expected.view(8, 1).expand(2, 2, 8, 8))
    positions = flatten_positions(maps)
    assert positions.shape == (2, 64, 5)
    assert torch.equal(positions[1, 8 * 3 + 5], maps[1, :, 3, 5])
