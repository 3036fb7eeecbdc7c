"""Purify, then detect: noise an image, take the noise away with a diffusion model, let any detector judge the rest.

What the noise drowns is lost, an attacker's change and a small defect alike: the purifier's dilemma. And whatever the
purifier leaves behind in every image is news to a detector that has learned from images as given; one that has
learned from purified ones knows it.

Source: Nie et al. 2022, "Diffusion Models for Adversarial Purification" (DiffPure).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from advrad.baselines.base import BaselineDetector, FitContext
from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import GradientPath, reconstruct
from advrad.detectors.base import AnomalyDetector, DetectorOutput, SurrogateLoss
from advrad.errors import ConfigError
from advrad.utils.config import Config


class PurifyOptions(Config):
    """Options of the purifier.

    Attributes:
        sigma: noise, in [0, 1] pixel units. The paper's diffusion times 0.1 (CIFAR-10) and 0.15 (ImageNet) are 0.17
            and 0.26.
        steps: calls of the denoiser. 1 is one shot; the paper walks all the way back, with some 100.
        draws: of noise; scores and maps are averaged.
        learns: what the inner detector learns from: images as ``given``, as in the paper, or each ``purified`` once.
    """

    sigma: float = Field(0.17, gt=0)
    steps: int = Field(1, ge=1)
    draws: int = Field(1, ge=1)
    learns: Literal["given", "purified"] = "given"


class Purified(BaselineDetector):
    """A detector that sees purified images only.

    The purified image is handed on unclamped and the walk's gradients are exact, so that an attacker meets the whole
    system. Its hints are, of the true score: one draw alone (an unbiased part); for a walk of many steps the score
    after one shot, and the true score with gradients that skip the walk (BPDA); and what the inner detector hints.

    Args:
        inner: judges.
        denoiser: put in evaluation mode, its parameters frozen.
        options: see there.
        size_px: of the images, a multiple of the denoiser's.

    Raises:
        ConfigError: the images do not suit the denoiser or the inner detector.
    """

    deterministic = False

    def __init__(self, inner: AnomalyDetector, denoiser: Denoiser, options: PurifyOptions, size_px: int) -> None:
        super().__init__(size_px)
        if size_px % denoiser.multiple_px:
            raise ConfigError(
                f"size_px: {size_px} does not suit the denoiser; choose a multiple of {denoiser.multiple_px}"
            )
        if inner.size_px not in (None, size_px):
            raise ConfigError(
                f"size_px: {size_px}, but the detector behind the purifier takes {inner.size_px}; choose the same"
            )
        self.inner, self.options = inner, options
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.differentiable = inner.differentiable

    def purify(
        self, images: Tensor, generator: torch.Generator, steps: int | None = None, path: GradientPath = "exact"
    ) -> Tensor:
        """One draw.

        Args:
            images: (b, 3, h, w) in [0, 1].
            generator: source of the noise, which the rows share.
            steps: another number of them than the options'.
            path: of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

        Returns:
            (b, 3, h, w), unclamped.
        """
        steps = steps or self.options.steps
        return reconstruct(self.denoiser, images, self.options.sigma, generator, steps=steps, path=path)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        said = [self.inner.infer(self.purify(images, generator), generator) for _ in range(self.options.draws)]
        maps = [part.maps for part in said if part.maps is not None]
        scores = torch.stack([part.scores for part in said]).mean(0)
        return DetectorOutput(scores, torch.stack(maps).mean(0) if maps else None)

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """See the class."""
        surrogates: dict[str, SurrogateLoss] = {}
        if self.options.draws > 1:
            surrogates["part one draw"] = partial(self._climb, self._inner_score, None, "exact")
        if self.options.steps > 1:
            surrogates["one shot"] = partial(self._climb, self._inner_score, 1, "exact")
            surrogates["straight through"] = partial(self._climb, self._inner_score, None, "straight")
        for name, hint in self.inner.surrogates.items():
            surrogates.setdefault(name, partial(self._climb, hint, None, "exact"))
        return surrogates

    def _inner_score(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.inner.infer(images, generator).scores

    def _climb(
        self, score: SurrogateLoss, steps: int | None, path: GradientPath, images: Tensor, generator: torch.Generator
    ) -> Tensor:
        return score(self.purify(images, generator, steps, path), generator)


def fit_purified(
    lesson: FitContext, options: PurifyOptions, inner: Callable[[FitContext], AnomalyDetector]
) -> Purified:
    """Put a purifier trained on the lesson's images before a detector that learns from the same.

    Our denoisers may have learned to undo synthetic defects besides noise; as a purifier such a one forgets defects
    sooner than one trained on noise alone.

    Args:
        lesson: must have ``diffusion``.
        options: see there.
        inner: fits any detector; the paper's is a classifier.

    Raises:
        ConfigError: the lesson has no diffusion model.
    """
    if lesson.diffusion is None:
        raise ConfigError("purify: needs a denoiser trained on the same images; give the lesson `diffusion`")
    denoiser = lesson.diffusion().denoiser
    if options.learns == "purified":
        lesson = replace(lesson, good=_purified(lesson, denoiser, options))
    return Purified(inner(lesson), denoiser, options, lesson.size_px)


def _purified(lesson: FitContext, denoiser: Denoiser, options: PurifyOptions) -> ImageStack:
    """The normal images, each purified once, with noise of its own."""
    generator = lesson.generator("purified")
    denoiser = denoiser.eval()
    with torch.no_grad():
        parts = [
            reconstruct(denoiser, images, options.sigma, generator, steps=options.steps)
            for images in lesson.images(batch_size=1)
        ]
    values = torch.cat(parts).clamp(0, 1).numpy() * np.float32(65535)
    return ImageStack(np.rint(values).astype(np.uint16), lesson.good.records)
