"""The exported graph of distances against the search that detectors use."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import generator

from advrad.denoisers.distance_graph import graph_distances
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    window=st.tuples(st.integers(0, 8), st.integers(0, 3)),
    patch=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    taper=st.sampled_from(["flat", "gaussian"]),
    gain=st.sampled_from([0.0, 0.2]),
    rows=st.booleans(),
    seed=st.integers(0, 50),
)
def test_it_computes_the_distances_of_the_search(
    sides: tuple[int, int],
    window: tuple[int, int],
    patch: int,
    stride: int,
    channels: int,
    taper: str,
    gain: float,
    rows: bool,
    seed: int,
) -> None:
    config = MemoryConfig.parse(
        {
            "height_cells": sides[0],
            "width_cells": sides[1],
            "channels": channels,
            "patch_cells": patch,
            "window_cells": window,
            "stride_cells": min(stride, patch),
            "taper": taper,
            "gain": gain,
        }
    )
    draws = generator(seed)
    sheets = PatchMemory.quantised(torch.rand(3, channels, *sides, generator=draws))
    cells = torch.rand(2, channels, *sides, generator=draws)
    memory = PatchMemory(config, sheets, torch.arange(3))
    expected = memory.nearest(cells).square()
    with pytest.MonkeyPatch.context() as context:
        context.setattr("advrad.denoisers.distance_graph.suits_rows", lambda config: rows and config.taper == "flat")
        context.setattr("advrad.denoisers.distance_rows._AT_ONCE", 4000)  # in several parts
        found = graph_distances(config, sheets, cells).square()
    # Squares, because the root of a rounding error at 0 is large.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_distances_near_0_are_as_exact_as_those_of_the_search() -> None:
    # Products about a mean patch of a window with strong edges lose half of the digits of so small a distance.
    config = MemoryConfig(height_cells=24, width_cells=24, patch_cells=5, window_cells=(2, 2), stride_cells=4)
    draws = generator(1)
    sheets = PatchMemory.quantised((torch.rand(4, 3, 24, 24, generator=draws) > 0.5).float())
    cells = (sheets[:1].float() / 255 + 1e-4 * torch.rand(1, 3, 24, 24, generator=draws)).clamp(0, 1)
    expected = PatchMemory(config, sheets, torch.arange(4)).nearest(cells)
    assert float(expected.amax()) < 1e-4
    for rows in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("advrad.denoisers.distance_graph.suits_rows", lambda config, rows=rows: rows)
            found = graph_distances(config, sheets, cells)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_memory_without_positions_is_searched_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advrad.denoisers.distance_graph._AT_ONCE", 100)  # in several products
    config = MemoryConfig(height_cells=9, width_cells=8, patch_cells=3, window_cells=None, stride_cells=2, gain=0.1)
    draws = generator(3)
    sheets = PatchMemory.quantised(torch.rand(30, 3, 3, 4, generator=draws))
    cells = torch.rand(2, 3, 9, 8, generator=draws)
    expected = PatchMemory(config, sheets, torch.arange(30)).nearest(cells)
    torch.testing.assert_close(graph_distances(config, sheets, cells), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [3, 4])  # every sheet is a patch, or holds several
def test_patches_are_compared_with_those_chosen_for_them(side: int) -> None:
    config = MemoryConfig(height_cells=5, width_cells=6, patch_cells=3, chosen_patches=4, gain=0.1)
    draws = generator(4)
    sheets = PatchMemory.quantised(torch.rand(20, 3, side, side, generator=draws))
    chosen = torch.randint(0, 20, (12, 4), generator=draws, dtype=torch.int32) * (3 * side * side)
    cells = torch.rand(2, 3, 5, 6, generator=draws)
    expected = PatchMemory(config, sheets, torch.arange(20), chosen).nearest(cells)
    torch.testing.assert_close(graph_distances(config, sheets, cells, chosen), expected, rtol=1e-5, atol=1e-6)
