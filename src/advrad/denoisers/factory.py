"""Build the denoiser that a configuration describes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from advrad.denoisers.base import Denoiser
from advrad.denoisers.ddpm import DdpmConfig, build
from advrad.denoisers.lean import LeanConfig, LeanDenoiser

DenoiserConfig = Annotated[LeanConfig | DdpmConfig, Field(discriminator="kind")]


def build_denoiser(config: LeanConfig | DdpmConfig) -> Denoiser:
    """A freshly initialised denoiser of either kind."""
    if isinstance(config, DdpmConfig):
        return build(config)
    return LeanDenoiser(config)
