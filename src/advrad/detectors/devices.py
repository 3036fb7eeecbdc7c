"""Devices that compute."""

from __future__ import annotations

import torch

from advrad.errors import ConfigError


def usable_device(name: str) -> str:
    """Check that a device can be used.

    Args:
        name: Name of the device, such as ``cpu`` or ``cuda:1``; ``auto`` is the GPU if PyTorch has one.

    Returns:
        Name of the device; never ``auto``.

    Raises:
        ConfigError: There is no such device.

    Example:
        >>> usable_device("cpu")
        'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # without CUDA, PyTorch raises an AssertionError
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"cannot be used ({reason}); choose cpu or auto", option="device", value=name) from None
    return name
