"""The threat model: the perturbations that an attacker may use, and the geometry of that set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from advrad.errors import ConfigError
from advrad.utils.config import Config
from advrad.utils.radii import Norm, radius_of

#: Random generators, one for each image of a batch, so that the attack on an image does not depend on the others.
Generators = Sequence[torch.Generator]
NORMS: tuple[Norm, ...] = ("linf", "l2")

#: Projections use a radius smaller by this factor, so that rounding does not move an image out of the ball.
_SHRINK = 1e-6


class Threat(Config):
    """Threat model: all images in [0, 1] within a radius of the given image.

    Attributes:
        norm: ``linf``, the largest change of a value, or ``l2``, the Euclidean norm of the whole perturbation.
        eps: Radius, for pixel values in [0, 1]; 0 leaves the image as it is.

    Example:
        >>> threat = Threat.of("linf", "51/255")
        >>> image = torch.full((1, 1, 1, 1), 0.5)
        >>> threat.project(image + 0.4, image).item()
        0.699999...
    """

    norm: Norm
    eps: float = Field(ge=0)

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.norm == "linf" and self.eps > 1:
            raise ValueError("eps above 1 allows any image; it is in [0, 1] pixel units, such as 2/255")
        return self

    @classmethod
    def of(cls, norm: str, eps: str | float) -> Threat:
        """Make a threat model of a norm and a radius.

        Args:
            norm: Name from :data:`NORMS`.
            eps: Radius: a number, or a fraction such as ``2/255``.

        Raises:
            ConfigError: The norm is unknown, or the radius is neither a number nor a fraction, or out of range.
        """
        if norm not in NORMS:
            raise ConfigError(f"is unknown; choose {' or '.join(NORMS)}", option="norm", value=norm)
        return cls.parse({"norm": norm, "eps": radius_of(eps, norm, "eps")})

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        """Compute the distance of each pair of images, (b, c, h, w) each; returns (b,)."""
        difference = (others - images).flatten(1)
        return difference.abs().amax(1) if self.norm == "linf" else difference.square().sum(1).sqrt()

    def project(self, candidates: Tensor, images: Tensor) -> Tensor:
        """Project candidates into the ball and into [0, 1].

        For ``linf`` the result is the nearest such image. For ``l2`` the perturbation is shortened and the image then
        clamped to [0, 1]; clamping moves every value towards the given image, so the result stays in the ball.

        Args:
            candidates: Candidates, (b, c, h, w).
            images: Centres of the balls, same shape, in [0, 1].
        """
        radius = self.eps * (1 - _SHRINK)
        change = candidates - images
        if self.norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            length = change.flatten(1).square().sum(1).sqrt().clamp_min(1e-30)
            change = change * expand_batch((radius / length).clamp_max(1.0))
        return (images + change).clamp(0, 1)

    def steepest(self, gradients: Tensor) -> Tensor:
        """Compute the perturbations of norm 1 that raise linear functions with these gradients, (b, c, h, w), most."""
        if self.norm == "linf":
            return gradients.sign()
        length = gradients.flatten(1).square().sum(1).sqrt()
        return gradients / expand_batch(length.clamp_min(torch.finfo(gradients.dtype).tiny))

    def start(self, images: Tensor, generators: Generators) -> Tensor:
        """Draw a random image of the ball around each image, uniform before the projection to [0, 1]; (b, c, h, w)."""
        rows = []
        for image, generator in zip(images, generators, strict=True):
            if self.norm == "linf":
                change = 2 * torch.rand(image.shape, generator=generator) - 1
            else:
                change = torch.randn(image.shape, generator=generator)
                share = float(torch.rand((), generator=generator)) ** (1 / image.numel())
                change = change * (share / float(change.norm()))
            rows.append(change)
        return self.project(images + self.eps * torch.stack(rows).to(images), images)


def expand_batch(values: Tensor) -> Tensor:
    """Reshape values, (b,), to (b, 1, 1, 1), so that they multiply images."""
    return values[:, None, None, None]
