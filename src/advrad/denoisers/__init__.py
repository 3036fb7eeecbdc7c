"""Denoisers: networks that remove Gaussian noise of a known level from images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.denoisers.base import Denoiser as Denoiser
    from advrad.denoisers.ddpm import DdpmConfig as DdpmConfig
    from advrad.denoisers.ddpm import DdpmDenoiser as DdpmDenoiser
    from advrad.denoisers.factory import build_denoiser as build_denoiser
    from advrad.denoisers.lean import LeanConfig as LeanConfig
    from advrad.denoisers.lean import LeanDenoiser as LeanDenoiser
    from advrad.denoisers.sampling import NoiseSource as NoiseSource
    from advrad.denoisers.sampling import reconstruct as reconstruct

__all__ = [
    "DdpmConfig",
    "DdpmDenoiser",
    "Denoiser",
    "LeanConfig",
    "LeanDenoiser",
    "NoiseSource",
    "build_denoiser",
    "reconstruct",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "DdpmConfig": "advrad.denoisers.ddpm",
        "DdpmDenoiser": "advrad.denoisers.ddpm",
        "Denoiser": "advrad.denoisers.base",
        "LeanConfig": "advrad.denoisers.lean",
        "LeanDenoiser": "advrad.denoisers.lean",
        "NoiseSource": "advrad.denoisers.sampling",
        "build_denoiser": "advrad.denoisers.factory",
        "reconstruct": "advrad.denoisers.sampling",
    },
)
