"""Exhausted memory, which has no error class of its own everywhere."""

from __future__ import annotations

import sys


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was exhausted: Python's own, a GPU's, or that of PyTorch on the CPU, which has no class for it.

    Args:
        error: Any error.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("no"))
        (True, False)
    """
    torch = sys.modules.get("torch")
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.cuda.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
