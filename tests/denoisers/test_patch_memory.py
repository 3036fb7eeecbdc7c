"""Distances to the patches of normal images: equal to a slow oracle, and never outside their bounds under attack."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from chosen_patches import choose_patches
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_bounds import highest, lowest
from advrad.denoisers.patch_intervals import PatchIntervals
from advrad.denoisers.patch_memory import PatchMemory, sheet_of
from advrad.denoisers.patch_table import PatchTable, Winners
from advrad.errors import DataError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def memory_of(config: MemoryConfig, cells: Tensor, groups: Tensor | None = None) -> PatchMemory:
    sheets = PatchMemory.quantised(cells)
    chosen = choose_patches(config, sheets, generator(0))
    return PatchMemory(config, sheets, torch.arange(len(cells)) if groups is None else groups, chosen)


def exact_bounds(memory: PatchMemory, cells: Tensor, eps: float) -> PatchIntervals:
    """Bounds that are exact at every site."""
    found = PatchIntervals(memory, cells, eps)
    found.refine(torch.arange(found.upper[0].numel()))
    return found


def oracle(memory: PatchMemory, cells: Tensor, exclude: int | None = None) -> npt.NDArray[np.float64]:
    """The distance of every patch of a sheet to the memory, site by site and patch by patch, in float64."""
    config, k = memory.config, memory.config.patch_cells
    sheet = cells.double().numpy()[0]
    weights = config.weights().numpy().reshape(config.channels, k, k)
    stored = memory.sheets.double().numpy() / 255
    found = np.full(config.sites, np.inf)
    for (i, row), (j, column) in itertools.product(enumerate(config.rows), enumerate(config.columns)):
        patch = sheet[:, row : row + k, column : column + k]
        for other_row, other_column in np.ndindex(stored.shape[2] - k + 1, stored.shape[3] - k + 1):
            if config.window_cells is not None and (
                abs(other_row - row) > config.window_cells[0] or abs(other_column - column) > config.window_cells[1]
            ):
                continue
            for index in range(len(stored)):
                if memory.chosen is not None:
                    start = index * stored[0].size + other_row * config.width_cells + other_column
                    if start not in memory.chosen[i * config.sites[1] + j]:
                        continue
                if exclude is not None and int(memory.groups[index]) == exclude:
                    continue
                other = stored[index][:, other_row : other_row + k, other_column : other_column + k]
                gain = 1.0
                if config.gain:
                    square = max(float((weights * other * other).sum()), 1e-12)
                    gain = float((weights * patch * other).sum()) / square
                    gain = float(np.clip(gain, 1 - config.gain, 1 + config.gain))
                distance = math.sqrt(float((weights * (patch - gain * other) ** 2).sum()))
                found[i, j] = min(found[i, j], distance)
    return found


configs = st.builds(
    lambda height, width, patch_cells, stride, chosen, **others: MemoryConfig(
        height_cells=height,
        width_cells=width,
        patch_cells=patch_cells,
        stride_cells=min(stride, patch_cells),
        chosen_patches=None if others["window_cells"] is None else chosen,
        **others,
    ),
    height=st.integers(5, 8),
    width=st.integers(5, 9),
    channels=st.sampled_from([1, 3]),
    patch_cells=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    chosen=st.sampled_from([None, 12]),
    window_cells=st.sampled_from([None, (0, 0), (1, 1), (2, 0), (1, 3)]),
    taper=st.sampled_from(["flat", "gaussian"]),
    gain=st.sampled_from([0.0, 0.15]),
)


def example(config: MemoryConfig, seed: int, count: int = 4) -> tuple[PatchMemory, Tensor]:
    """A memory of similar sheets, and a sheet that differs from them a little more."""
    draws, shape = generator(seed), (config.channels, config.height_cells, config.width_cells)
    common = torch.rand(1, *shape, generator=draws)
    normal = (common + 0.1 * torch.randn(count, *shape, generator=draws)).clamp(0, 1)
    return memory_of(config, normal), (common + 0.15 * torch.randn(1, *shape, generator=draws)).clamp(0, 1)


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=st.integers(0, 1000), exclude=st.sampled_from([None, 0, 2]))
def test_distances_are_those_of_the_oracle(config: MemoryConfig, seed: int, exclude: int | None) -> None:
    memory, image = example(config, seed)
    left_out = None if exclude is None else torch.tensor([exclude])
    found = memory.nearest(image, left_out)[0, 0].numpy()
    exact = oracle(memory, image, exclude)
    assert bool((found >= exact - 2e-5).all())
    # Squares are compared in float32, so that of two patches the one may be taken that is farther by rounding.
    assert bool((found <= np.sqrt(exact**2 + 1e-8) + 2e-5).all())


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=st.integers(0, 1000), eps=st.sampled_from([0.0, 2 / 255, 0.05]))
def test_no_perturbation_leaves_the_bounds(config: MemoryConfig, seed: int, eps: float) -> None:
    memory, image = example(config, seed)
    bounds, draws = exact_bounds(memory, image, eps), generator(seed + 1)
    assert bool((bounds.lower <= bounds.nearest).all()) and bool((bounds.nearest <= bounds.upper).all())
    for _ in range(10):
        signs = torch.randn(image.shape, generator=draws).sign()
        assert_inside(memory, image + eps * signs, bounds.lower, bounds.upper)
    for direction in (1, -1):
        attacked = image.clone()
        for _ in range(10):
            attacked = attacked.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(memory.nearest(attacked).sum(), attacked)
            step = attacked.detach() + direction * eps / 3 * gradient.sign()
            attacked = image + (step - image).clamp(-eps, eps)
            assert_inside(memory, attacked, bounds.lower, bounds.upper)


@settings(max_examples=20, deadline=None)
@given(config=configs, seed=st.integers(0, 1000), refined=st.integers(0, 3), exclude=st.sampled_from([None, 1]))
def test_no_perturbation_leaves_the_bounds_at_other_poses(
    config: MemoryConfig, seed: int, refined: int, exclude: int | None
) -> None:
    """The other sheets are the first one moved by a cell, or anything else; shifts may be wrong."""
    memory, image = example(config, seed)
    draws, eps = generator(seed + 1), 0.02
    sheets = torch.cat([image, image.roll(1, 3), torch.rand(image.shape, generator=draws)])
    count = config.sites[0] * config.sites[1]
    shifts = torch.randint(-3, 4, (2, count, 2), generator=draws) if seed % 2 else None
    left_out = None if exclude is None else torch.tensor([exclude])
    found = PatchIntervals(memory, sheets, eps, left_out, shifts)
    found.refine(torch.randperm(count, generator=draws)[:refined])
    for _ in range(5):
        attacked = sheets + eps * torch.randn(sheets.shape, generator=draws).sign()
        distances = memory.nearest(attacked, None if left_out is None else left_out.expand(3))
        assert bool((distances >= found.lower).all()) and bool((distances <= found.upper).all())
    sites = found.refined.nonzero()[:, 0]
    for row in range(3):
        alone = PatchIntervals(memory, sheets[row : row + 1], eps, left_out)
        alone.refine(torch.arange(count))
        for mine, exact in ((found.lower, alone.lower), (found.upper, alone.upper)):
            # Equal but for the allowance for rounding, which grows with the distance between the sheets.
            torch.testing.assert_close(mine[row].flatten()[sites], exact[0].flatten()[sites], rtol=0, atol=1e-3)


def test_bounds_at_a_moved_pose_are_close_where_the_shifts_are_right() -> None:
    config = MemoryConfig(height_cells=12, width_cells=12, channels=1, patch_cells=3, window_cells=(2, 2))
    memory, image = example(config, 4)
    moved, shifts = image.roll(1, 3), torch.tensor([0, -1]).expand(1, 100, 2)
    right, none = (PatchIntervals(memory, torch.cat([image, moved]), 0.02, shifts=given) for given in (shifts, None))
    exact = exact_bounds(memory, moved, 0.02)
    loose = [float((found.upper[1] - exact.upper[0])[:, 1:, 2:].mean()) for found in (right, none)]
    assert 0 <= loose[0] < 0.01 < loose[1]


def assert_inside(memory: PatchMemory, image: Tensor, lower: Tensor, upper: Tensor) -> None:
    found = memory.nearest(image.detach())
    assert bool((found >= lower).all()) and bool((found <= upper).all())


def test_bounds_that_are_too_narrow_are_noticed() -> None:
    """The attacks of the test above are strong enough to leave bounds that hold for half the radius only."""
    config = MemoryConfig(height_cells=6, width_cells=6, patch_cells=3, window_cells=(1, 1))
    memory, image = example(config, 3)
    narrow, eps = exact_bounds(memory, image, 0.025), 0.05
    attacked = image.clone()
    for _ in range(10):
        attacked = attacked.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(memory.nearest(attacked)[0, 0, 1, 1], attacked)
        attacked = image + (attacked.detach() + eps / 3 * gradient.sign() - image).clamp(-eps, eps)
    assert bool((memory.nearest(attacked.detach()) > narrow.upper).any())


def test_the_bounds_of_a_single_memory_patch_are_attained() -> None:
    config = MemoryConfig(height_cells=3, width_cells=3, patch_cells=3, window_cells=(0, 0))
    memory = memory_of(config, torch.full((2, 3, 3, 3), 0.5), torch.tensor([0, 1]))
    image = torch.rand(1, 3, 3, 3, generator=generator(5))
    difference, eps = image - memory.sheets[:1].float() / 255, 0.07
    bounds = exact_bounds(memory, image, eps)
    towards = image - difference.sign() * torch.minimum(difference.abs(), torch.tensor(eps))
    away = image + eps * difference.sign()
    torch.testing.assert_close(memory.nearest(towards), bounds.lower, rtol=0, atol=1e-4)
    torch.testing.assert_close(memory.nearest(away), bounds.upper, rtol=0, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.sampled_from([0.05, 0.15, 0.4]), eps=st.floats(0, 0.1))
def test_bounds_with_a_gain_hold_for_every_gain(seed: int, gain: float, eps: float) -> None:
    draws = generator(seed)
    patch, memory = torch.rand(1, 1, 12, generator=draws), torch.rand(1, 1, 1, 12, generator=draws)
    reach = torch.full((12,), eps)
    low, high = float(lowest(patch, memory, gain, reach)), float(highest(patch, memory, gain, reach))
    gains = torch.linspace(1 - gain, 1 + gain, 2001)[:, None]
    difference = (patch[0] - gains * memory[0, 0]).abs()
    exact_low = float((difference - eps).clamp_min(0).square().sum(1).min().sqrt())
    exact_high = float((difference + eps).square().sum(1).min().sqrt())
    assert low <= exact_low + 1e-5
    assert low >= exact_low - 0.15 * gain**2, "the tangents bound the minimum closely"
    assert high >= exact_high - 1e-5


def test_a_copy_of_a_memory_image_has_distance_zero_and_its_group_is_left_out() -> None:
    config = MemoryConfig(height_cells=8, width_cells=8, patch_cells=3, window_cells=(1, 1))
    images = torch.rand(3, 3, 8, 8, generator=generator(1)).mul(255).round() / 255
    memory = memory_of(config, images[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 0]))
    assert float(memory.nearest(images[:1]).max()) < 1e-6
    assert float(memory.nearest(images[:1], torch.tensor([0])).min()) > 1e-3


def test_a_distance_depends_on_its_own_image_only() -> None:
    config = MemoryConfig(height_cells=4, width_cells=4, patch_cells=3, window_cells=None)
    memory, image = example(config, 7)
    other = torch.rand(1, 3, 4, 4, generator=generator(2))
    torch.testing.assert_close(memory.nearest(torch.cat([other, image]))[1:], memory.nearest(image))


@settings(max_examples=15, deadline=None)
@given(config=configs, seed=st.integers(0, 1000))
def test_bounds_at_some_sites_only_are_the_same_there_and_no_tighter_elsewhere(config: MemoryConfig, seed: int) -> None:
    memory, image = example(config, seed)
    whole, count = exact_bounds(memory, image, 0.03), config.sites[0] * config.sites[1]
    some = PatchIntervals(memory, image, 0.03)
    some.refine(torch.tensor([0, count - 1]))
    for part, other in ((some.lower.flatten(), whole.lower.flatten()), (-some.upper.flatten(), -whole.upper.flatten())):
        torch.testing.assert_close(part[[0, -1]], other[[0, -1]])
        assert bool((part <= other + 1e-6).all())


def test_all_cells_belong_to_a_patch_and_the_last_patch_ends_at_the_border() -> None:
    config = MemoryConfig(height_cells=8, width_cells=9, patch_cells=3, stride_cells=3)
    assert config.rows == [0, 3, 5] and config.columns == [0, 3, 6] and config.sites == (3, 3)
    values = torch.arange(9.0).view(1, 1, 3, 3)
    assert sheet_of(values, config)[0, 0, :, 0].tolist() == [0, 0, 0, 3, 3, 3, 6, 6]


def test_patches_without_a_window_may_come_from_small_sheets() -> None:
    config = MemoryConfig(height_cells=7, width_cells=5, patch_cells=3, window_cells=None)
    sheets = PatchMemory.quantised(torch.rand(6, 3, 3, 3, generator=generator(3)))
    memory = PatchMemory(config, sheets, torch.tensor([0, 0, 1, 1, 2, 2]))
    cells = torch.rand(1, 3, 7, 5, generator=generator(4))
    for exclude in (None, 1):
        found = memory.nearest(cells, None if exclude is None else torch.tensor([exclude]))
        np.testing.assert_allclose(found[0, 0].numpy(), oracle(memory, cells, exclude), atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_cells": 4}, "must be odd"),
        ({"patch_cells": 9}, "must fit into a sheet"),
        ({"patch_cells": 3, "stride_cells": 4}, "every cell is part of a patch"),
    ],
)
def test_impossible_patches_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MemoryConfig(height_cells=8, width_cells=8, **changes)  # type: ignore[arg-type]


def test_a_sheet_of_another_shape_and_a_memory_of_one_image_are_refused() -> None:
    config = MemoryConfig(height_cells=4, width_cells=4, patch_cells=3)
    memory, cells = example(config, 0)
    with pytest.raises(DataError, match=r"expected \(b, 3, 4, 4\)"):
        memory.nearest(cells[:, :, :3])
    with pytest.raises(DataError, match="patches of one image only"):
        memory_of(config, cells, torch.tensor([5])).nearest(cells, torch.tensor([5]))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of sheets that tables search, filled as they do."""
    found, search = [], PatchTable.search

    def counted(table: PatchTable, patches: Tensor, excluded: Tensor | None) -> Winners:
        found.append(len(patches))
        return search(table, patches, excluded)

    monkeypatch.setattr(PatchTable, "search", counted)
    return found


@pytest.mark.parametrize("chosen", [None, 12])
def test_a_score_and_bounds_at_all_radii_search_once(searches: list[int], chosen: int | None) -> None:
    config = MemoryConfig(height_cells=6, width_cells=6, patch_cells=3, window_cells=(1, 1), chosen_patches=chosen)
    memory, image = example(config, 0)
    sheets = torch.cat([image, image.roll(1, 3), image.roll(1, 2)])
    with torch.no_grad():
        together = memory.nearest(sheets)
        alone = torch.cat([memory.nearest(sheet) for sheet in sheets.split(1)])  # type: ignore[no-untyped-call]
    bounds = [PatchIntervals(memory, sheet, eps) for sheet in sheets.split(1) for eps in (0.01, 0.02)]  # type: ignore[no-untyped-call]
    assert searches == [3]
    assert torch.equal(alone, together)
    assert torch.equal(torch.cat([found.nearest for found in bounds[::2]]), together)
    fresh = PatchMemory(config, memory.sheets, memory.groups, memory.chosen)
    again = PatchIntervals(fresh, sheets[1:2], 0.02)
    assert searches == [3, 1]
    assert torch.equal(again.lower, bounds[3].lower) and torch.equal(again.upper, bounds[3].upper)


@settings(max_examples=20, deadline=None)
@given(config=configs, seed=st.integers(0, 1000), order=st.lists(st.integers(0, 4), min_size=2, max_size=6))
def test_what_is_kept_is_never_taken_for_another_search(config: MemoryConfig, seed: int, order: list[int]) -> None:
    """Sheets, one or two at once, with and without a group to leave out, in any order."""
    memory, image = example(config, seed)
    # The second differs from the first in one value only.
    other = image.clone()
    other[0, 0, 2, 2] += 1e-3
    both = torch.cat([image, other])
    asked = [(image, None), (other, None), (image, torch.tensor([1])), (both, torch.tensor([0, 1])), (both, None)]
    for sheets, exclude in (asked[place] for place in order):
        fresh = PatchMemory(config, memory.sheets, memory.groups, memory.chosen)
        with torch.no_grad():
            # Of equally near memory patches another may win in a batch.
            torch.testing.assert_close(
                memory.nearest(sheets, exclude), fresh.nearest(sheets, exclude), rtol=0, atol=1e-6
            )


def test_the_search_for_a_gradient_is_not_kept(searches: list[int]) -> None:
    memory, image = example(MemoryConfig(height_cells=5, width_cells=5, patch_cells=3), 0)
    with torch.no_grad():
        kept = memory.nearest(image)
    asked = image.clone().requires_grad_()
    found = memory.nearest(asked)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert searches == [1, 1]
    assert torch.equal(found.detach(), kept) and asked.grad is not None and bool(asked.grad.any())
