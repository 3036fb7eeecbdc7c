"""The threat model: which changes of an image an attacker may make, and the geometry of that set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from advrad.errors import ConfigError
from advrad.utils.config import Config

Norm = Literal["linf", "l2"]
#: A source of randomness for every image of a batch, so that no image's attack depends on its neighbours.
Generators = Sequence[torch.Generator]
NORMS: tuple[Norm, ...] = ("linf", "l2")

#: Projections aim this much short of the radius, so that rounding does not carry an image out of the ball.
_SHY = 1e-6


def radius_of(typed: str | float, norm: str, option: str) -> float:
    """A radius as a person types it.

    Args:
        typed: a number, or a fraction such as ``2/255``.
        norm: a name from :data:`NORMS`.
        option: it was typed for, named in the error.

    Raises:
        ConfigError: neither a number nor a fraction, or out of range.
    """
    try:
        above, _, below = str(typed).partition("/")
        radius = float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError):
        radius = math.nan
    if not math.isfinite(radius):
        raise ConfigError(f"{option} {typed}: must be a number or a fraction, such as 2/255")
    if radius < 0 or (norm == "linf" and radius > 1):
        bound = "between 0 and 1" if norm == "linf" else "0 or more"
        raise ConfigError(f"{option} {typed}: must be {bound}; it is in units in which pixels are in [0, 1]")
    return radius


class Threat(Config):
    """All images in [0, 1] within a radius of the image as given.

    Attributes:
        norm: ``linf``, the largest change of a channel of a pixel, or ``l2``, the Euclidean length of the whole change.
        eps: radius, in [0, 1] pixel units; 0 leaves the image as it is.
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
        """From what a person types.

        Args:
            norm: a name from :data:`NORMS`.
            eps: a number, or a fraction such as ``2/255``.

        Raises:
            ConfigError: neither a number nor a fraction, or out of range, or the norm is unknown.
        """
        if norm not in NORMS:
            raise ConfigError(f"--norm {norm}: is unknown; choose {' or '.join(NORMS)}")
        return cls.parse({"norm": norm, "eps": radius_of(eps, norm, "--eps")})

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        """Distance of each pair of images, (b, c, h, w) twice -> (b,)."""
        difference = (others - images).flatten(1)
        return difference.abs().amax(1) if self.norm == "linf" else difference.square().sum(1).sqrt()

    def project(self, candidates: Tensor, images: Tensor) -> Tensor:
        """Bring candidates into the ball and into [0, 1].

        For ``linf`` the result is the nearest such image. For ``l2`` the change is shortened, then clamped to [0, 1];
        clamping moves every value towards the image, which lies in [0, 1], so the result stays in the ball.

        Args:
            candidates: (b, c, h, w).
            images: same shape, in [0, 1]; centres of the balls.
        """
        radius = self.eps * (1 - _SHY)
        change = candidates - images
        if self.norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            length = change.flatten(1).square().sum(1).sqrt().clamp_min(1e-30)
            change = change * expand_batch((radius / length).clamp_max(1.0))
        return (images + change).clamp(0, 1)

    def steepest(self, gradients: Tensor) -> Tensor:
        """The change of length 1 along which a linear function with these gradients rises most, (b, c, h, w)."""
        if self.norm == "linf":
            return gradients.sign()
        length = gradients.flatten(1).square().sum(1).sqrt()
        return gradients / expand_batch(length.clamp_min(torch.finfo(gradients.dtype).tiny))

    def start(self, images: Tensor, generators: Generators) -> Tensor:
        """A random image of the ball, uniform before it is brought into [0, 1]; (b, c, h, w)."""
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
    """(b,) -> (b, 1, 1, 1)."""
    return values[:, None, None, None]
