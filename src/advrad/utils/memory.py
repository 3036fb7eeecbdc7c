"""Memory: exhausted, which has no error class of its own everywhere; and kept, to be used again at once."""

from __future__ import annotations

import ctypes
import platform
import sys

#: Settings of glibc's ``mallopt``: bytes at the top of the heap above which they go back to the system, bytes that are
#: taken at once, and number of blocks that are taken from the system singly.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20


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


def reuse_freed_memory() -> bool:
    """Keep freed memory in this process, where the C library is glibc; nothing happens elsewhere.

    Without it glibc gives large tensors back to the system when they are freed, and the system clears the next ones
    page by page: of an attack on a guarded detector that was measured, 42 % of the processor's time. The process holds
    its largest use until it ends, so this is for commands that compute and end, not for a service.

    Returns:
        Whether memory is kept.

    Example:
        >>> reuse_freed_memory() or platform.libc_ver()[0] != "glibc"
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _TOP_PAD_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])
