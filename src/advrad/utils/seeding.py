"""Seeds and random generators. Every random draw of advrad depends on a seed and on names for what it is used for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def seed_of(*parts: object) -> int:
    """Derive a seed from a base seed and the purpose of the draws.

    Args:
        parts: Base seed, and anything that names the purpose: a word, a file name, the number of a step. Their text
            counts, so ``1`` and ``"1"`` are the same part.

    Returns:
        A seed in [0, 2^56). Seeds of different parts are unrelated.

    Example:
        >>> seed_of(0, "score") == seed_of(0, "score"), seed_of(0, "score") == seed_of(1, "score")
        (True, False)
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def generator_for(*parts: object) -> torch.Generator:
    """Make a generator of PyTorch, on the CPU, for a purpose.

    Args:
        parts: Base seed and purpose, as for :func:`seed_of`.

    Example:
        >>> generator_for(0, "step", 3).initial_seed() == seed_of(0, "step", 3)
        True
    """
    import torch

    return torch.Generator().manual_seed(seed_of(*parts))


def numpy_generator_for(*parts: object) -> np.random.Generator:
    """Make a generator of NumPy for a purpose.

    Args:
        parts: Base seed and purpose, as for :func:`seed_of`.

    Example:
        >>> first, again = numpy_generator_for(0, "scene"), numpy_generator_for(0, "scene")
        >>> bool(first.random() == again.random())
        True
    """
    import numpy as np

    return np.random.default_rng(seed_of(*parts))


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global random generators of PyTorch, NumPy and Python, and restore their states after the block.

    Args:
        seed: Seed, >= 0.

    Example:
        >>> import torch
        >>> with seeded_globals(3):
        ...     first = torch.rand(1)
        >>> with seeded_globals(3):
        ...     print(torch.equal(torch.rand(1), first))
        True
    """
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def copy_generator(generator: torch.Generator) -> torch.Generator:
    """Make a generator that draws the same noise, without any effect on the given one.

    Args:
        generator: Generator of PyTorch.

    Example:
        >>> import torch
        >>> first = torch.Generator().manual_seed(3)
        >>> bool(torch.rand(1, generator=copy_generator(first)) == torch.rand(1, generator=first))
        True
    """
    import torch

    copy = torch.Generator(device=generator.device)
    copy.manual_seed(generator.initial_seed())  # sanity checks know a generator by its seed
    copy.set_state(generator.get_state())
    return copy
