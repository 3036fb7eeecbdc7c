"""What a forked child process needs: locks that are free, and computations that do not wait for the parent's threads.

A child has the forking thread only. A lock that another thread held stays locked in it for ever, and PyTorch waits for
ever for the threads of its parent. So in a child the locks are made again, and PyTorch computes with one thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType


class ForkSafeLock:
    """A lock that is free in a forked child, whoever held it in the parent.

    Args:
        reset: Function that a child calls, to reset what the lock protects; None for nothing to reset.

    Example:
        >>> lock = ForkSafeLock()
        >>> with lock:
        ...     print(lock.locked())
        True
    """

    def __init__(self, reset: Callable[[], None] | None = None) -> None:
        self._lock, self._reset = threading.Lock(), reset
        call_in_child(self._make_again)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock.locked():  # not in a child that was forked inside the block
            self._lock.release()

    def locked(self) -> bool:
        """Whether a thread holds the lock."""
        return self._lock.locked()

    def _make_again(self) -> None:
        self._lock = threading.Lock()
        if self._reset is not None:
            self._reset()


def call_in_child(function: Callable[[], None]) -> None:
    """Call a function in every child process that is forked from now on, where the system has forks.

    Args:
        function: Function without arguments; it is kept for ever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def _compute_with_one_thread() -> None:
    """Keep PyTorch from waiting for the threads of the parent, which the child does not have."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads") and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def prepare() -> None:
    """Make PyTorch safe to use in children that are forked from now on. The package calls it when it is imported."""
    call_in_child(_compute_with_one_thread)
