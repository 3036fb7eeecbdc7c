"""Denoisers: networks that remove Gaussian noise of a known level from images.

Example:
    >>> from advrad import denoisers
    >>> denoisers.LeanConfig().kind
    'lean'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = [
    "DdpmConfig",
    "DdpmDenoiser",
    "Denoiser",
    "GeneratorNoise",
    "LeanConfig",
    "LeanDenoiser",
    "MemoryConfig",
    "MemoryDenoiser",
    "MemoryDenoiserConfig",
    "NoiseSource",
    "PatchMemory",
    "StoredNoise",
    "build_denoiser",
    "reconstruct",
]

if TYPE_CHECKING:
    from advrad.denoisers.base import Denoiser
    from advrad.denoisers.ddpm import DdpmConfig, DdpmDenoiser
    from advrad.denoisers.factory import build_denoiser
    from advrad.denoisers.lean import LeanConfig, LeanDenoiser
    from advrad.denoisers.memory import MemoryDenoiser, MemoryDenoiserConfig
    from advrad.denoisers.memory_config import MemoryConfig
    from advrad.denoisers.patch_memory import PatchMemory
    from advrad.denoisers.sampling import GeneratorNoise, NoiseSource, StoredNoise, reconstruct
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "DdpmConfig": "advrad.denoisers.ddpm",
            "DdpmDenoiser": "advrad.denoisers.ddpm",
            "Denoiser": "advrad.denoisers.base",
            "GeneratorNoise": "advrad.denoisers.sampling",
            "LeanConfig": "advrad.denoisers.lean",
            "LeanDenoiser": "advrad.denoisers.lean",
            "MemoryConfig": "advrad.denoisers.memory_config",
            "MemoryDenoiser": "advrad.denoisers.memory",
            "MemoryDenoiserConfig": "advrad.denoisers.memory",
            "NoiseSource": "advrad.denoisers.sampling",
            "PatchMemory": "advrad.denoisers.patch_memory",
            "StoredNoise": "advrad.denoisers.sampling",
            "build_denoiser": "advrad.denoisers.factory",
            "reconstruct": "advrad.denoisers.sampling",
        },
    )
