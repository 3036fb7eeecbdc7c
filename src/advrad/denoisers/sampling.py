"""Robust reconstruction: noise the image, then walk back to a clean one in one step or many."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advrad.denoisers.base import Denoiser

#: How gradients flow back through a walk of many steps: all the way, or as if the first step had been the last.
GradientPath = Literal["exact", "straight"]


class StoredNoise(torch.Generator):
    """A source of noise that was drawn before: for a graph that must not draw any.

    It goes wherever noise is drawn by :func:`draw_noise`; of a generator's own state it makes no use.

    Args:
        draws: (1, c, h, w) each, in the order in which they will be asked for.
    """

    def __new__(cls, draws: Iterable[Tensor]) -> StoredNoise:
        """Keep the draws from a generator's own, which takes a device."""
        return super().__new__(cls)

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = iter(draws)

    def next(self) -> Tensor:
        """The next draw."""
        return next(self._draws)


def draw_noise(images: Tensor, generator: torch.Generator, independent: bool = False) -> Tensor:
    """One draw of standard noise.

    By default all rows share it. A score must depend on its own image only, whatever else is in the batch; rows
    that share one draw keep that for any batch size. Statistics over images need rows of their own, or they would
    learn the one draw by heart.

    Args:
        images: (b, c, h, w), for shape, type and device.
        generator: source of the draw.
        independent: each row gets its own.

    Returns:
        (1, c, h, w), or (b, c, h, w) if independent.
    """
    if isinstance(generator, StoredNoise):
        assert not independent
        return generator.next().to(images)
    shape = (images.shape[0] if independent else 1, *images.shape[1:])
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).to(images)


def noise_levels(sigma: float, steps: int, sigma_last: float = 0.02, rho: float = 7.0) -> list[float]:
    """Descending noise levels from ``sigma`` to 0.

    Args:
        sigma: where the walk starts, [0, 1] pixel units.
        steps: denoiser calls; 1 is one-shot.
        sigma_last: the last level above 0, for more than one step; at most half of ``sigma``.
        rho: bends the levels towards the small ones.

    Returns:
        ``steps + 1`` levels; the first is ``sigma``, the last 0.

    Source: Karras et al. 2022, equation 5.
    """
    if steps == 1:
        return [sigma, 0.0]
    last = min(sigma_last, sigma / 2)
    high, low = sigma ** (1 / rho), last ** (1 / rho)
    return [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


def reconstruct(
    denoiser: Denoiser,
    images: Tensor,
    sigma: float,
    generator: torch.Generator,
    steps: int = 1,
    fresh: float = 1.0,
    independent: bool = False,
    path: GradientPath = "exact",
) -> Tensor:
    """Noise images and take the noise away again.

    Args:
        denoiser: any denoiser; it is used in the mode (training, evaluation) it is in.
        images: (b, 3, h, w) float in [0, 1].
        sigma: noise level, [0, 1] pixel units.
        generator: source of all noise.
        steps: denoiser calls. 1 is the one-shot reconstruction ``D(x + sigma noise, sigma)``; more walk down
            :func:`noise_levels`, adding fresh noise on the way as the reverse diffusion does.
        fresh: share of fresh noise in each step between levels: 1 is DDPM's ancestral walk, 0 the deterministic one.
        independent: as in :func:`draw_noise`.
        path: of the gradients. ``exact`` is the gradient; of a walk it keeps one step's activations at a time and
            computes the others anew. ``straight`` gives the same reconstruction but the gradient of its first step, a
            walk's "backward pass differentiable approximation".

    Returns:
        (b, 3, h, w): the reconstruction, unclamped. Differentiable in ``images``.

    Source: AdvRAD, one-shot and arbitrary-shot robust reconstruction; BPDA: Athalye et al. 2018.
    """
    levels = noise_levels(sigma, steps)
    z = images + sigma * draw_noise(images, generator, independent)

    def denoise(z: Tensor, level: float) -> Tensor:
        levels = z.new_full((z.shape[0],), level)
        if steps == 1 or not torch.is_grad_enabled():
            return denoiser.denoise(z, levels)
        recon: Tensor = checkpoint(denoiser.denoise, z, levels, use_reentrant=False)
        return recon

    recon = first = denoise(z, sigma)
    with torch.set_grad_enabled(torch.is_grad_enabled() and path == "exact"):
        for now, after in itertools.pairwise(levels[:-1]):
            renewed = fresh * (after**2 * (now**2 - after**2) / now**2) ** 0.5
            kept = (after**2 - renewed**2) ** 0.5
            z = recon + kept / now * (z - recon) + renewed * draw_noise(images, generator, independent)
            recon = denoise(z, after)
    return recon if path == "exact" else first + (recon - first).detach()
