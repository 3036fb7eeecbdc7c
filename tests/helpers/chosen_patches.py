"""Memory patches that are chosen at random for each patch."""

from __future__ import annotations

import torch
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig


def choose_patches(config: MemoryConfig, sheets: Tensor, generator: torch.Generator) -> Tensor | None:
    """Choose the memory patches of each patch from all sheets and all places within the window.

    Args:
        config: Shape of the patches, and how many to choose.
        sheets: Sheets, (n, c, H, W).
        generator: Source of the draws.

    Returns:
        Starts of the patches in the flattened sheets, (L, k) int32; None if ``config.chosen_patches`` is None.
    """
    if config.chosen_patches is None or config.window_cells is None:
        return None
    size = sheets[0].numel()
    last = config.height_cells - config.patch_cells, config.width_cells - config.patch_cells
    chosen = []
    for row in config.rows:
        for column in config.columns:
            shape = (config.chosen_patches,)
            places = [
                torch.randint(max(0, at - reach), min(end, at + reach) + 1, shape, generator=generator)
                for at, reach, end in zip((row, column), config.window_cells, last, strict=True)
            ]
            of = torch.randint(len(sheets), shape, generator=generator)
            chosen.append(of * size + places[0] * config.width_cells + places[1])
    return torch.stack(chosen).to(torch.int32)
