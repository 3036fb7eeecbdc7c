"""Robust reconstruction: add noise to an image, then remove it in one denoising step or in several."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal, Protocol, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advrad.denoisers.base import Denoiser

#: Gradient of a reconstruction of several steps: ``exact``, or ``straight``, the gradient of its first step (BPDA).
GradientPath = Literal["exact", "straight"]


class NoiseSource(Protocol):
    """A source of standard normal noise.

    Where a function takes a noise source it also takes a ``torch.Generator``.
    """

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Give the next draw.

        Args:
            shape: Shape of the draw, (1 or b, c, h, w).

        Returns:
            Standard normal numbers of that shape, float32.
        """
        ...


#: What functions take as their source of noise.
Noise = torch.Generator | NoiseSource


class GeneratorNoise:
    """Noise that a random generator draws, on the generator's device.

    Args:
        generator: The random generator.

    Example:
        >>> GeneratorNoise(torch.Generator().manual_seed(0)).draw((1, 3, 4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw new noise; see :class:`NoiseSource`."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device, dtype=torch.float32)


class StoredNoise:
    """Noise that was drawn before, for an exported graph, which cannot draw.

    Args:
        draws: The draws, (1, c, h, w) each, in the order in which they are used.

    Example:
        >>> StoredNoise([torch.zeros(1, 3, 4, 4)]).draw((1, 3, 4, 4)).sum()
        tensor(0.)
    """

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = iter(draws)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Give the next stored draw.

        Raises:
            ValueError: No draw is left, or the next one has another shape.
        """
        stored = next(self._draws, None)
        if stored is None:
            raise ValueError(f"no stored noise is left, but noise of shape {shape} is needed")
        if tuple(stored.shape) != tuple(shape):
            raise ValueError(f"the stored noise has shape {tuple(stored.shape)}, but noise of shape {shape} is needed")
        return stored


def draw_noise(images: Tensor, noise: Noise, independent: bool = False) -> Tensor:
    """Draw standard normal noise for a batch of images.

    By default all images share one draw, so that the score of an image does not depend on the batch. Statistics over
    many images need independent draws; otherwise they would contain the pattern of the shared one.

    Args:
        images: Images, (b, c, h, w); they give the shape, type and device of the noise.
        noise: Source of the noise.
        independent: Whether each image gets its own draw.

    Returns:
        Noise, (1, c, h, w), or (b, c, h, w) if independent.

    Example:
        >>> draw_noise(torch.zeros(5, 3, 4, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 4, 4])
    """
    source = GeneratorNoise(noise) if isinstance(noise, torch.Generator) else noise
    return source.draw((images.shape[0] if independent else 1, *images.shape[1:])).to(images)


def noise_levels(sigma: float, steps: int, sigma_last: float = 0.02, rho: float = 7.0) -> list[float]:
    """Give the falling noise levels of a reconstruction, from ``sigma`` to 0.

    Args:
        sigma: First noise level, [0, 1] pixel units.
        steps: Number of denoising steps, >= 1.
        sigma_last: Last noise level above 0, for more than one step; at most half of ``sigma`` is used.
        rho: Exponent; larger values place more levels near 0.

    Returns:
        ``steps + 1`` noise levels. The first is ``sigma``, the last 0.

    Example:
        >>> noise_levels(0.5, 1)
        [0.5, 0.0]

    Source: Karras et al. 2022, equation 5.
    """
    if steps == 1:
        return [sigma, 0.0]
    last = min(sigma_last, sigma / 2)
    high, low = sigma ** (1 / rho), last ** (1 / rho)
    return [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


def renewal(now: float, after: float, fresh: float = 1.0) -> tuple[float, float]:
    """How the noise of one step becomes that of the next.

    Args:
        now: Noise level, > 0.
        after: Next noise level, at most ``now``.
        fresh: Share of new noise, in [0, 1].

    Returns:
        Factor of the noise that stays, and standard deviation of new noise.

    Example:
        >>> renewal(0.5, 0.3, fresh=0.0), renewal(0.5, 0.3)
        ((0.6, 0.0), (0.36, 0.24))
    """
    renewed = fresh * (after**2 * (now**2 - after**2) / now**2) ** 0.5
    return (after**2 - renewed**2) ** 0.5 / now, renewed


def reconstruct(
    denoiser: Denoiser,
    images: Tensor,
    sigma: float,
    generator: Noise,
    steps: int = 1,
    fresh: float = 1.0,
    independent: bool = False,
    path: GradientPath = "exact",
) -> Tensor:
    """Add noise to images and remove it again.

    Args:
        denoiser: Denoiser, used in the mode it is in (training or evaluation).
        images: Images, (b, 3, h, w) float in [0, 1].
        sigma: Noise level, [0, 1] pixel units.
        generator: Source of all noise.
        steps: Number of denoising steps. 1 is the one-shot reconstruction ``D(x + sigma noise, sigma)``; more follow
            :func:`noise_levels` and add new noise after each step, as the reverse diffusion does.
        fresh: Share of new noise after each step, in [0, 1]: 1 is the ancestral sampling of DDPM, 0 is deterministic.
        independent: Whether each image gets its own noise.
        path: Gradient of the reconstruction. ``exact`` is the true gradient; for several steps it recomputes
            activations to save memory. ``straight`` gives the same reconstruction with the gradient of the first step.

    Returns:
        Reconstructions, (b, 3, h, w), unclamped. Differentiable in ``images``.

    Source: one-shot and arbitrary-shot robust reconstruction of AdvRAD; the straight path is the BPDA of Athalye,
    Carlini and Wagner 2018.
    """
    levels = noise_levels(sigma, steps)
    z = images + sigma * draw_noise(images, generator, independent)

    def denoise(z: Tensor, level: float) -> Tensor:
        levels = z.new_full((z.shape[0],), level)
        if steps == 1 or not torch.is_grad_enabled():
            return denoiser.denoise(z, levels)
        return cast(Tensor, checkpoint(denoiser.denoise, z, levels, use_reentrant=False))

    recon = first = denoise(z, sigma)
    with torch.set_grad_enabled(torch.is_grad_enabled() and path == "exact"):
        for now, after in itertools.pairwise(levels[:-1]):
            kept, renewed = renewal(now, after, fresh)
            z = recon + kept * (z - recon) + renewed * draw_noise(images, generator, independent)
            recon = denoise(z, after)
    return recon if path == "exact" else first + (recon - first).detach()
