"""Arithmetic of a network: float32, or bfloat16 where the hardware supports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch  # loaded by the functions: the command line reads Precision for its help

Precision = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of a network. ``auto`` is bfloat16 on hardware that supports it, and float32 elsewhere."""


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware; elsewhere bfloat16 is slower than float32.

    Args:
        device: Device of the network.

    Example:
        >>> import torch
        >>> bfloat16_is_native(torch.device("meta"))
        False
    """
    import torch

    from advrad.utils.compat import cpu_has_bfloat16

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bfloat16()


def takes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether a network computes in bfloat16.

    Args:
        precision: The arithmetic that was asked for.
        device: Device of the network.

    Example:
        >>> import torch
        >>> takes_bfloat16("float32", torch.device("cpu"))
        False
    """
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_native(device))
