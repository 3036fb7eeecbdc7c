"""Closed-form detectors of any settings, with memories drawn at random: nothing is fitted."""

from __future__ import annotations

import torch
from chosen_patches import choose_patches
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_config import ClosedFormConfig, MemberConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredView
from advrad.detectors.views import WholeView


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def memory_like(memory: MemoryConfig, sheet: Tensor, count: int, spread: float, generator: torch.Generator) -> Tensor:
    """Sheets, (count, c, H, W) uint8, that differ from a sheet, (c, H, W), by Gaussian noise."""
    shape = (count, memory.channels, memory.height_cells, memory.width_cells)
    return PatchMemory.quantised((sheet + spread * torch.randn(shape, generator=generator)).float())


def detector_of(
    view: WholeView | RegisteredView,
    memory: MemoryConfig,
    sheets: Tensor,
    *,
    pooling: float = 0.0,
    standardised: bool = True,
    generator: torch.Generator,
) -> ClosedFormDetector:
    """A detector with one member.

    Args:
        view: View of the member.
        memory: Shape of its patches.
        sheets: Memory, (n, c, H, W) uint8; each sheet is that of an image of its own.
        pooling: Share of the largest standardised distances whose mean is the score.
        standardised: Whether distances are standardised by statistics that are drawn at random; otherwise the score is
            pooled from the distances themselves.
        generator: Source of the draws.
    """
    shape = (1, 1, *memory.sites)
    mean, spread = (0.05 * standardised * torch.rand(shape, generator=generator) for _ in range(2))
    chosen = choose_patches(memory, sheets, generator)
    held = PatchMemory(memory, sheets, torch.arange(len(sheets)), chosen)
    config = MemberConfig(view=view.config, memory=memory, pooling=pooling)
    if standardised:
        config = config.model_copy(update={"tolerance": 0.02, "location": 0.5, "scale": 2.0})
    member = ClosedFormMember(config, view, held, mean, spread)
    return ClosedFormDetector(ClosedFormConfig(members=(config,)), [member]).eval()


def member_of(detector: ClosedFormDetector) -> ClosedFormMember:
    """The only member of a detector."""
    (member,) = detector.members
    assert isinstance(member, ClosedFormMember)
    return member
