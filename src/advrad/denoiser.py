"""The one contract that every denoiser keeps, and the only place that rescales pictures."""

from __future__ import annotations

from torch import Tensor, nn


class Denoiser(nn.Module):
    """Estimates the clean picture behind additive Gaussian noise: ``D(z, sigma)``.

    Subclasses implement :meth:`forward`. They take and give pictures in [0, 1] units; whatever range
    their network works in stays inside. Nothing is clamped and no gradient is stopped on the way.
    """

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            z: (b, 3, h, w) float, a picture in [0, 1] plus noise of standard deviation ``sigma``; unclamped.
            sigma: (b,) float > 0, in [0, 1] pixel units.

        Returns:
            (b, 3, h, w): estimate of the picture without noise. Row i depends on row i only.
        """
        raise NotImplementedError
