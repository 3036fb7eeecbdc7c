"""In which arithmetic a network works: float32, or bfloat16 where the processor has it."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def takes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether a network on the device works in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_native(device))
