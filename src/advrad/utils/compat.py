"""The private interfaces of PyTorch and accelerate that advrad needs, all in one place.

No other module may use them (``tests/utils/test_compat.py`` checks it), so a release that changes one of them breaks
this module only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode", "cpu_has_bfloat16", "is_grad_switch", "reset_accelerator_state"]


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX). PyTorch has no public query."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def is_grad_switch(function: Callable[..., Any]) -> bool:
    """Whether a function is the one that ``torch.no_grad`` and ``torch.enable_grad`` call to switch gradients.

    Args:
        function: Function that a :class:`torch.overrides.TorchFunctionMode` intercepted.
    """
    return function is torch._C._set_grad_enabled


def reset_accelerator_state() -> None:
    """Forget the precision of an earlier ``accelerate.Accelerator``.

    Accelerate keeps the first precision for the whole process, and a later Accelerator with another one fails.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
