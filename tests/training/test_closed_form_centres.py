"""Centres of patches of normal images."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.training.closed_form_centres import centres_by_site, centres_of


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(kinds: Tensor, count: int, spread: float) -> Tensor:
    """Images of a few kinds, (count, c, h, w) uint8, with noise."""
    images = kinds[torch.arange(count) % len(kinds)] + spread * torch.randn(count, *kinds.shape[1:])
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture
def kinds() -> Tensor:
    torch.manual_seed(0)
    return 0.2 + 0.6 * torch.rand(3, 3, 9, 9, generator=generator(0))


def test_each_site_gets_the_means_of_the_kinds_that_it_shows(kinds: Tensor) -> None:
    config = MemoryConfig(height_cells=9, width_cells=9, patch_cells=3, window_cells=(0, 0), stride_cells=3)
    sheets = noisy(kinds, 300, 0.05)
    centres, places = centres_by_site(sheets, config, 12, generator(1))
    assert centres.shape == (9 * 12, 3, 3, 3) and places.shape == (9, 12)
    memory = PatchMemory(config.model_copy(update={"chosen_patches": 12}), centres, torch.full((108,), -1), places)
    # Of 300 images 100 show each kind, and the mean of n of them is off by 0.05 / sqrt(n).
    assert (
        float(memory.nearest(kinds).mean()) < 0.03 < 0.045 < float(memory.nearest(noisy(kinds, 9, 0.05) / 255).mean())
    )
    whole = PatchMemory(config, sheets, torch.arange(300))
    assert float(memory.nearest(kinds).mean()) < 0.75 * float(whole.nearest(kinds).mean()), "a mean has less noise"


def test_centres_follow_patches_that_move_within_the_window() -> None:
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 13, 13, generator=generator(3))
    moved = torch.cat([scene[:, :, y : y + 9, x : x + 9] for y in range(2, 5) for x in range(2, 5)])
    near, still = (
        MemoryConfig(height_cells=9, width_cells=9, patch_cells=3, window_cells=window, stride_cells=3)
        for window in ((2, 2), (0, 0))
    )
    found = []
    for config in (near, still):
        centres, places = centres_by_site(PatchMemory.quantised(scene[:, :, 2:11, 2:11]), config, 40, generator(1))
        config = config.model_copy(update={"chosen_patches": places.shape[1]})
        memory = PatchMemory(config, centres, torch.full((len(centres),), -1), places)
        found.append(float(memory.nearest(moved).mean()))
    assert found[0] < 0.5 * found[1], "of the patches at the border, some have left the sheet"


def test_centres_of_all_sites_are_nearer_to_normal_patches_than_patches_are(kinds: Tensor) -> None:
    config = MemoryConfig(height_cells=9, width_cells=9, patch_cells=3, window_cells=None)
    patches = noisy(kinds[..., :3, :3], 2000, 0.05)
    centres = centres_of(patches, config, 60, generator(2))
    assert centres.shape == (60, 3, 3, 3) and centres.dtype == torch.uint8
    new = noisy(kinds, 12, 0.0) / 255
    shown = new.clone()
    shown[..., :3, :3] += 0.05 * torch.randn(12, 3, 3, 3, generator=generator(4))
    first = [
        PatchMemory(config, memory, torch.arange(len(memory))).nearest(shown)[..., 0, 0].mean()
        for memory in (centres, patches[:60])
    ]
    assert float(first[0]) < 0.9 * float(first[1])


def test_the_same_seed_gives_the_same_centres(kinds: Tensor) -> None:
    config = MemoryConfig(height_cells=9, width_cells=9, patch_cells=3, window_cells=(1, 1), stride_cells=3)
    sheets = noisy(kinds, 30, 0.05)
    first, again = (centres_by_site(sheets, config, 5, generator(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, centres_by_site(sheets, config, 5, generator(2))[0])


def test_memory_does_not_grow_with_the_number_of_patches() -> None:
    """Twenty parts of 16 MB are compared; a part that is not freed would show."""
    code = """
import resource, torch
from advrad.training.closed_form_centres import _moved
torch.set_num_threads(1)
draws = torch.Generator().manual_seed(0)
values, centres = torch.rand(1, 20_000, 8, generator=draws), torch.rand(1, 4_000, 8, generator=draws)
_moved(values[:, :2_000], centres, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_moved(values, centres, 1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100
