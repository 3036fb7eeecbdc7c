"""PLS, principal latent space: an autoencoder that learns under attack to pass a latent of few principal components.

Two principal component analyses in cascade purify the latent ``(v, h, w)``. The first takes the ``v`` numbers of each
position for one sample and keeps its first component, so a position becomes one number. The second takes the ``h * w``
numbers of an image for one sample and keeps a few components. Then both are undone, and the decoder sees a latent that
can only vary in these directions. Means and components are not solved for once but follow those of each batch as a
moving average, while encoder and decoder learn to restore clean images from the attacks that make this hardest.

What the paper leaves open or differs: components are known up to sign and rotation only, so those of a batch are turned
towards the ones so far (orthogonal Procrustes) before they are averaged, and the average is brought back to the nearest
orthonormal one; and the attack while training has fewer steps.

Source: Lo, Oza, Patel 2022, "Adversarially Robust One-Class Novelty Detection" (IEEE TPAMI; PrincipaLS). Written
from its abstract and what is commonly told of it; the full text was not at hand.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, begun, finished, learn
from advrad.baselines.base import FitContext
from advrad.baselines.features import Radius, worst


class PlsOptions(AutoencoderOptions):
    """Options of PLS; see :class:`AutoencoderOptions`.

    Attributes:
        components: kept of the positions' numbers. Of the channels one is kept, as in the paper.
        momentum: weight of each new batch in the moving averages.
        attack_eps: radius of the ``linf`` ball while training, in [0, 1] pixel units; 0 trains plainly.
        attack_steps: gradient steps of the attack on each batch.
    """

    components: int = Field(8, ge=1)
    momentum: float = Field(0.1, gt=0, le=1)
    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    steps: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.components > self.latent_px**2:
            raise ValueError(f"components exceeds the {self.latent_px**2} positions of the latent")
        if self.components >= self.batch_size:
            raise ValueError("components must be fewer than batch_size: a batch spans no more directions")
        return self


class PrincipalComponents(nn.Module):
    """A mean and orthonormal directions that follow those of the samples shown.

    Args:
        width: of a sample.
        count: directions kept.
        momentum: weight of each new batch; the first has weight 1.
    """

    mean: Tensor
    axes: Tensor
    seen: Tensor

    def __init__(self, width: int, count: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.eye(width, count))
        self.register_buffer("seen", torch.tensor(False))

    def reduce(self, samples: Tensor) -> Tensor:
        """(..., width) -> (..., count), coordinates along the axes."""
        return (samples - self.mean) @ self.axes

    def restore(self, coordinates: Tensor) -> Tensor:
        """(..., count) -> (..., width), the point with these coordinates."""
        return coordinates @ self.axes.mT + self.mean

    @torch.no_grad()
    def follow(self, samples: Tensor) -> None:
        """Move towards the principal components of (n, width) samples."""
        mean = samples.mean(0)
        centred = samples - mean
        axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)[:, : self.axes.shape[1]]
        if bool(self.seen):
            left, _, right = torch.linalg.svd(axes.mT @ self.axes)
            mean = torch.lerp(self.mean, mean, self.momentum)
            mixed = torch.lerp(self.axes, axes @ (left @ right), self.momentum)
            left, _, right = torch.linalg.svd(mixed, full_matrices=False)
            axes = left @ right
        self.mean.copy_(mean)
        self.axes.copy_(axes)
        self.seen.fill_(True)


class Pls(Autoencoder):
    """An autoencoder with a principal latent space.

    Args:
        size_px: side of the images.
        options: of the system.
    """

    def __init__(self, size_px: int, options: PlsOptions) -> None:
        super().__init__(size_px, options)
        self.channels = PrincipalComponents(options.latent_channels, 1, options.momentum)
        self.positions = PrincipalComponents(options.latent_px**2, options.components, options.momentum)

    def purify(self, latent: Tensor) -> Tensor:
        """The nearest latent within the components: first along the channels, then along the positions.

        Args:
            latent: (b, v, h, w).

        Returns:
            Same shape; an affine function of the latent.
        """
        numbers = self.channels.reduce(latent.flatten(2).mT)[..., 0]
        numbers = self.positions.restore(self.positions.reduce(numbers))
        return self.channels.restore(numbers[..., None]).mT.reshape(latent.shape)

    def follow(self, latent: Tensor) -> None:
        """Let both analyses follow those of latents (b, v, h, w)."""
        vectors = latent.detach().flatten(2).mT
        self.channels.follow(vectors.flatten(0, 1))
        self.positions.follow(self.channels.reduce(vectors)[..., 0])

    def reconstruct(self, view: Tensor) -> Tensor:
        """See :meth:`Autoencoder.reconstruct`; through the principal latent space."""
        return self.decode(self.purify(self.encode(view)))


def fit_pls(lesson: FitContext, options: PlsOptions) -> Pls:
    """Train on attacks on normal images."""
    system = begun(lesson, "pls", lambda: Pls(lesson.size_px, options))

    def loss(view: Tensor, generator: torch.Generator) -> Tensor:
        attacked = worst(
            lambda x: (system.reconstruct(x) - view).square().mean((1, 2, 3)),
            view,
            options.attack_eps,
            options.attack_steps,
            generator,
        )
        latent = system.encode(attacked)
        system.follow(latent)
        return (system.decode(system.purify(latent)) - view).square().mean()

    learn(system, lesson, loss)
    return finished(system)
