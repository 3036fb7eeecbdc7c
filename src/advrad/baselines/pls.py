"""PLS, principal latent space: an adversarially trained autoencoder whose latent keeps few principal components.

Two principal component analyses in sequence purify the latent ``(v, h, w)``. In the first, the ``v`` values of each
position are one sample; it keeps the first component, so a position becomes one number. In the second, the ``h * w``
numbers of an image are one sample; it keeps a few components. Both are then inverted, so the latent that the decoder
sees varies only along these components. Means and components are moving averages over batches. Encoder and decoder
learn to reconstruct clean images from attacked ones.

Differences from the paper, or choices that it leaves open: components are unique only up to sign and rotation, so those
of a batch are aligned with the current ones (orthogonal Procrustes) before averaging, and the average is replaced by
the nearest orthonormal matrix. The attack during training has fewer steps.

Source: Lo, Oza, Patel 2022, "Adversarially Robust One-Class Novelty Detection" (IEEE TPAMI; PrincipaLS). Written from
its abstract and secondary descriptions; the full text was not available.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, train_autoencoder
from advrad.baselines.base import FitContext, build_seeded, freeze
from advrad.baselines.features import Radius, adversarial_examples


class PlsOptions(AutoencoderOptions):
    """Options of PLS; see :class:`AutoencoderOptions`.

    Attributes:
        components: Number of components kept over positions. Over channels one is kept, as in the paper.
        momentum: Weight of each new batch in the moving averages.
        attack_eps: Radius of the ``linf`` ball during training, in [0, 1] pixel units; 0 trains without attack.
        attack_steps: Gradient steps of the attack on each batch.
    """

    components: int = Field(8, ge=1)
    momentum: float = Field(0.1, gt=0, le=1)
    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    steps: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.components > self.latent_px**2:
            raise ValueError(f"components must be at most {self.latent_px**2}, the number of positions of the latent")
        if self.components >= self.batch_size:
            raise ValueError("components must be below batch_size, since a batch spans no more directions")
        return self


class PrincipalComponents(nn.Module):
    """Moving averages of the mean and the principal components of samples.

    Args:
        width: Length of a sample.
        count: Number of components.
        momentum: Weight of each new batch; the first batch has weight 1.
    """

    mean: Tensor
    axes: Tensor
    initialised: Tensor

    def __init__(self, width: int, count: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.eye(width, count))
        self.register_buffer("initialised", torch.tensor(False))

    def reduce(self, samples: Tensor) -> Tensor:
        """Project samples (..., width) onto the components, (..., count)."""
        return (samples - self.mean) @ self.axes

    def restore(self, coordinates: Tensor) -> Tensor:
        """Map coordinates (..., count) back to samples (..., width)."""
        return coordinates @ self.axes.mT + self.mean

    @torch.no_grad()
    def update(self, samples: Tensor) -> None:
        """Move mean and components towards those of samples (n, width)."""
        mean = samples.mean(0)
        centred = samples - mean
        axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)[:, : self.axes.shape[1]]
        if bool(self.initialised):
            left, _, right = torch.linalg.svd(axes.mT @ self.axes)
            mean = torch.lerp(self.mean, mean, self.momentum)
            mixed = torch.lerp(self.axes, axes @ (left @ right), self.momentum)
            left, _, right = torch.linalg.svd(mixed, full_matrices=False)
            axes = left @ right
        self.mean.copy_(mean)
        self.axes.copy_(axes)
        self.initialised.fill_(True)


class Pls(Autoencoder):
    """An autoencoder with a principal latent space.

    Args:
        size_px: Side of the images in pixels.
        options: Options of the system.
    """

    def __init__(self, size_px: int, options: PlsOptions) -> None:
        super().__init__(size_px, options)
        self.channel_components = PrincipalComponents(options.latent_channels, 1, options.momentum)
        self.position_components = PrincipalComponents(options.latent_px**2, options.components, options.momentum)

    def purify(self, latent: Tensor) -> Tensor:
        """Project latents onto the components, first over channels, then over positions.

        Args:
            latent: Latents, (b, v, h, w).

        Returns:
            Projected latents of the same shape, an affine function of the input.
        """
        numbers = self.channel_components.reduce(latent.flatten(2).mT)[..., 0]
        numbers = self.position_components.restore(self.position_components.reduce(numbers))
        return self.channel_components.restore(numbers[..., None]).mT.reshape(latent.shape)

    def update(self, latent: Tensor) -> None:
        """Update both analyses with latents (b, v, h, w)."""
        vectors = latent.detach().flatten(2).mT
        self.channel_components.update(vectors.flatten(0, 1))
        self.position_components.update(self.channel_components.reduce(vectors)[..., 0])

    def reconstruct(self, view: Tensor) -> Tensor:
        """See :meth:`Autoencoder.reconstruct`; decodes the projected latent."""
        return self.decode(self.purify(self.encode(view)))


def fit_pls(context: FitContext, options: PlsOptions) -> Pls:
    """Train PLS on attacked normal images."""
    system = build_seeded(context, "pls", lambda: Pls(context.size_px, options))

    def loss(view: Tensor, generator: torch.Generator) -> Tensor:
        attacked = adversarial_examples(
            lambda x: (system.reconstruct(x) - view).square().mean((1, 2, 3)),
            view,
            options.attack_eps,
            options.attack_steps,
            generator,
        )
        latent = system.encode(attacked)
        system.update(latent)
        return (system.decode(system.purify(latent)) - view).square().mean()

    train_autoencoder(system, context, loss)
    return freeze(system)
