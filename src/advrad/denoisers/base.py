"""The one contract that every denoiser keeps, and the only place that rescales images."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

#: Scales 1, 1/2, 1/4, 1/8 at which reconstruction errors are measured.
SCALES = 4


class Denoiser(nn.Module):
    """Estimates the clean image behind additive Gaussian noise: ``D(z, sigma)``.

    Subclasses implement :meth:`denoise` and :meth:`training_loss`. They take and give images in [0, 1] units;
    whatever range their network works in stays inside. Nothing is clamped and no gradient is stopped on the way.
    """

    #: Height and width of an image must be multiples of this.
    multiple_px: int = 1

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            z: (b, 3, h, w) float, an image in [0, 1] plus noise of standard deviation ``sigma``; unclamped.
            sigma: (b,) float > 0, in [0, 1] pixel units.
            window: (b, 4), top, left, bottom, right of ``z`` in the whole image, whose corners are -1 and 1;
                None for the whole image. Denoisers without a sense of place ignore it.

        Returns:
            (b, 3, h, w): estimate of the image without noise, unclamped. Row i depends on row i only.
            Differentiable in ``z``.
        """
        raise NotImplementedError

    def training_loss(
        self, images: Tensor, corrupted: Tensor, level: Tensor, noise: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """Loss of one batch, a function of its arguments alone: whoever trains draws the randomness.

        Args:
            images: (b, 3, h, w) in [0, 1], normal images.
            corrupted: same shape; the images that are noised and shown to the network, which a denoiser may
                learn to restore. Equal to ``images`` for plain denoising.
            level: (b,) uniform in [0, 1); each denoiser maps it to its own distribution of noise levels.
            noise: (b, 3, h, w) standard normal.
            window: as in :meth:`denoise`.

        Returns:
            (b,) loss per image, differentiable in the parameters.
        """
        raise NotImplementedError

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Take from normal images what needs no gradients, before training. Most denoisers need nothing.

        Args:
            batches: (b, 3, h, w) in [0, 1], whole images of one size, as training will show them.
        """

    def optimiser_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters in two groups: kernels for Muon, and the rest, for AdamW, which suits any network."""
        return [], list(self.parameters())

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """``D(z, sigma)`` on whole images; shapes and units as in :meth:`denoise`."""
        return self.denoise(z, sigma)
