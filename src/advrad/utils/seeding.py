"""Random generators from seeds."""

from __future__ import annotations

import hashlib

import torch


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of one step; different seeds and steps give unrelated streams."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def seed_of(*parts: object) -> int:
    """A seed that belongs to these parts and to no others."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
