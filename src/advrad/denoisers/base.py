"""The interface of every denoiser."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: Number of scales at which reconstruction errors are measured: 1, 1/2, 1/4 and 1/8 of the image size.
SCALES = 4


class Denoiser(nn.Module):
    """Estimates the clean image behind additive Gaussian noise, ``D(z, sigma)``.

    Subclasses implement :meth:`denoise` and :meth:`training_loss`. Both take and return images in [0, 1] units; a
    network that needs another range rescales inside. Nothing is clamped, and every step is differentiable.

    Attributes:
        multiple_px: Height and width of an image must be multiples of this, pixels.

    Example:
        >>> import torch
        >>> class Identity(Denoiser):
        ...     def denoise(self, z, sigma, window=None):
        ...         return z
        >>> Identity()(torch.zeros(1, 3, 8, 8), torch.tensor([0.1])).shape
        torch.Size([1, 3, 8, 8])
    """

    multiple_px: int = 1

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        """Estimate the clean image.

        Args:
            z: Noisy images, (b, 3, h, w) float: images in [0, 1] plus noise of standard deviation ``sigma``, unclamped.
            sigma: Noise level of each image, (b,) float, above 0, in [0, 1] pixel units.
            window: Top, left, bottom and right of each ``z`` in its whole image, (b, 4) float in [-1, 1]; None for
                whole images. Denoisers that do not use the position ignore it.

        Returns:
            Clean images, (b, 3, h, w), unclamped. Row i depends on row i of the arguments only. Differentiable in
            ``z``.
        """
        raise NotImplementedError

    def training_loss(
        self, images: Tensor, corrupted: Tensor, level: Tensor, noise: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """Compute the training loss of a batch. All randomness is in the arguments.

        Args:
            images: Normal images, (b, 3, h, w) float in [0, 1].
            corrupted: The same images, (b, 3, h, w), some of them with a synthetic defect. Noise is added to these; the
                denoiser learns to reconstruct ``images``. Equal to ``images`` for plain denoising.
            level: Uniform numbers, (b,) float in [0, 1). A denoiser maps them to its distribution of noise levels.
            noise: Standard normal noise, (b, 3, h, w).
            window: Position of each image in its whole image, as in :meth:`denoise`.

        Returns:
            Loss of each image, (b,), differentiable in the parameters.
        """
        raise NotImplementedError

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Estimate, before the first training step, what needs no gradients. Does nothing by default.

        Args:
            batches: Whole normal images of one size, (b, 3, h, w) float in [0, 1] each, augmented as in training.
        """

    def optimiser_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Divide the parameters between the optimisers.

        Returns:
            The kernels to be trained with Muon, and the other parameters, to be trained with AdamW. By default all
            parameters are in the second list.
        """
        return [], list(self.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the parameters, or of the buffers of a denoiser without parameters; the CPU if it has neither."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise whole images; see :meth:`denoise`."""
        return self.denoise(z, sigma)
