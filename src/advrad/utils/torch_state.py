"""The settings of PyTorch that belong to the whole process or thread, and that foreign code may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TorchState:
    """Settings of PyTorch at one moment.

    Attributes:
        gradients: Whether gradients are recorded.
        dtype: Default type of new tensors.
        device: Default device of new tensors.
        threads: Number of threads that compute.
        deterministic: Whether only deterministic algorithms are used.
        warn_only: Whether other algorithms only cause a warning.
    """

    gradients: bool
    dtype: torch.dtype
    device: torch.device
    threads: int
    deterministic: bool
    warn_only: bool

    @classmethod
    def now(cls) -> TorchState:
        """Read the settings."""
        return cls(
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    def restore(self) -> None:
        """Set the settings; only those that differ are touched."""
        now = TorchState.now()
        if self == now:
            return
        if self.gradients != now.gradients:
            torch.set_grad_enabled(self.gradients)
        set_defaults(self.dtype, self.device)
        if self.threads != now.threads:
            torch.set_num_threads(self.threads)
        if (self.deterministic, self.warn_only) != (now.deterministic, now.warn_only):
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)


def set_defaults(dtype: torch.dtype, device: torch.device) -> None:
    """Set the default type and device of new tensors, where they differ.

    Args:
        dtype: Type.
        device: Device.
    """
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def torch_state_kept() -> Iterator[None]:
    """Restore PyTorch's settings after the block, whatever it does."""
    before = TorchState.now()
    try:
        yield
    finally:
        before.restore()
