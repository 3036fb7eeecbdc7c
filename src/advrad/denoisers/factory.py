"""Denoisers from their configurations."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from advrad.denoisers.base import Denoiser
from advrad.denoisers.ddpm import DdpmConfig, build
from advrad.denoisers.lean import LeanConfig, LeanDenoiser
from advrad.denoisers.memory import MemoryDenoiser, MemoryDenoiserConfig

DenoiserConfig = Annotated[LeanConfig | DdpmConfig | MemoryDenoiserConfig, Field(discriminator="kind")]


def build_denoiser(config: LeanConfig | DdpmConfig | MemoryDenoiserConfig) -> Denoiser:
    """Make an untrained denoiser.

    Args:
        config: Configuration of any kind of denoiser. The memory of a memory denoiser is blank.

    Raises:
        ConfigError: The configuration needs a library that is not installed, or the library refuses it.

    Example:
        >>> type(build_denoiser(LeanConfig(channels=(8, 16), blocks=(1, 1)))).__name__
        'LeanDenoiser'
    """
    if isinstance(config, DdpmConfig):
        return build(config)
    if isinstance(config, MemoryDenoiserConfig):
        return MemoryDenoiser(config)
    return LeanDenoiser(config)
