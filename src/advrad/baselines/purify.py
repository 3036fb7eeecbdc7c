"""Diffusion purification: add noise to an image, remove it with a diffusion model, and score the result.

The noise that hides an adversarial perturbation also hides small defects. The purifier also leaves traces in every
image, which raise the scores of a detector that was fitted on images as given; ``learns = "purified"`` fits the inner
detector on purified images.

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
from advrad.detectors.base import AnomalyDetector, DetectorOutput, LossFunction, SurrogateLoss
from advrad.errors import ConfigError
from advrad.utils.config import Config


class PurifyOptions(Config):
    """Options of the purifier.

    Attributes:
        sigma: Noise level in [0, 1] pixel units. The paper's diffusion times 0.1 (CIFAR-10) and 0.15 (ImageNet) are
            0.17 and 0.26.
        steps: Number of denoiser calls. 1 is one-shot; the paper runs the whole reverse process with about 100.
        draws: Number of noise draws over which scores and maps are averaged.
        learns: Training images of the inner detector: as ``given``, as in the paper, or each ``purified`` once.
    """

    sigma: float = Field(0.17, gt=0)
    steps: int = Field(1, ge=1)
    draws: int = Field(1, ge=1)
    learns: Literal["given", "purified"] = "given"


class Purified(BaselineDetector):
    """A detector behind a diffusion purifier.

    The purified image is not clamped and the gradients of the reverse process are exact, so that an attacker meets the
    whole system. Its surrogate losses are: one draw alone (an unbiased component of the score); if there are several
    steps, the score after one step, and the score with gradients that skip the reverse process (BPDA); and the
    surrogate losses of the inner detector.

    Args:
        inner: Detector that scores the purified images.
        denoiser: Denoiser; put into evaluation mode, with frozen parameters.
        options: Options of the purifier.
        size_px: Side of the images in pixels, a multiple of the denoiser's.

    Raises:
        ConfigError: The image size does not suit the denoiser or the inner detector.
    """

    deterministic = False

    def __init__(self, inner: AnomalyDetector, denoiser: Denoiser, options: PurifyOptions, size_px: int) -> None:
        super().__init__(size_px)
        if size_px % denoiser.multiple_px:
            raise ConfigError(
                f"does not suit the denoiser; choose a multiple of {denoiser.multiple_px}",
                option="size_px",
                value=size_px,
            )
        if inner.size_px not in (None, size_px):
            raise ConfigError(
                f"must be {inner.size_px}, the size of the inner detector's images", option="size_px", value=size_px
            )
        self.inner, self.options = inner, options
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.differentiable = inner.differentiable

    def purify(
        self, images: Tensor, generator: torch.Generator, steps: int | None = None, path: GradientPath = "exact"
    ) -> Tensor:
        """Purify images with one draw of noise.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].
            generator: Source of the noise, which the images of the batch share.
            steps: Number of denoiser calls; None for that of the options.
            path: Path of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

        Returns:
            Purified images, (b, 3, h, w), not clamped.
        """
        steps = steps or self.options.steps
        return reconstruct(self.denoiser, images, self.options.sigma, generator, steps=steps, path=path)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        said = [self.inner.infer(self.purify(images, generator), generator) for _ in range(self.options.draws)]
        maps = [part.anomaly_maps for part in said if part.anomaly_maps is not None]
        scores = torch.stack([part.scores for part in said]).mean(0)
        return DetectorOutput(scores, torch.stack(maps).mean(0) if maps else None)

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        surrogates: dict[str, SurrogateLoss] = {}
        if self.options.draws > 1:
            one_draw = partial(self._surrogate_score, self._inner_score, None, "exact")
            surrogates["part one draw"] = SurrogateLoss(one_draw, "component")
        if self.options.steps > 1:
            one_step = partial(self._surrogate_score, self._inner_score, 1, "exact")
            surrogates["one shot"] = SurrogateLoss(one_step, "one_step")
            bypassing = partial(self._surrogate_score, self._inner_score, None, "straight")
            surrogates["straight through"] = SurrogateLoss(bypassing, "bpda")
        for name, loss in self.inner.surrogates.items():
            purified = partial(self._surrogate_score, loss.function, None, "exact")
            surrogates.setdefault(name, SurrogateLoss(purified, loss.kind))
        return surrogates

    def _inner_score(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.inner.infer(images, generator).scores

    def _surrogate_score(
        self, score: LossFunction, steps: int | None, path: GradientPath, images: Tensor, generator: torch.Generator
    ) -> Tensor:
        return score(self.purify(images, generator, steps, path), generator)


def fit_purified(
    context: FitContext, options: PurifyOptions, inner: Callable[[FitContext], AnomalyDetector]
) -> Purified:
    """Put a purifier, trained on the images of the context, in front of a detector that is fitted on them too.

    AdvRAD's denoisers may be trained to remove synthetic defects as well as noise. As a purifier, such a denoiser
    removes defects sooner than one that was trained on noise alone.

    Args:
        context: Training images, with ``diffusion``.
        options: Options of the purifier.
        inner: Function that fits the inner detector; in the paper it is a classifier.

    Raises:
        ConfigError: The context has no diffusion model.
    """
    if context.diffusion is None:
        raise ConfigError("the purifier needs a denoiser trained on the same images; set FitContext.diffusion")
    denoiser = context.diffusion().denoiser
    if options.learns == "purified":
        context = replace(context, normal_images=_purified(context, denoiser, options))
    return Purified(inner(context), denoiser, options, context.size_px)


def _purified(context: FitContext, denoiser: Denoiser, options: PurifyOptions) -> ImageStack:
    """Purify each normal image once, with its own noise."""
    generator = context.generator("purified")
    denoiser = denoiser.eval()
    with torch.no_grad():
        parts = [
            reconstruct(denoiser, images, options.sigma, generator, steps=options.steps)
            for images in context.images(batch_size=1)
        ]
    values = torch.cat(parts).clamp(0, 1).numpy() * np.float32(65535)
    return ImageStack(np.rint(values).astype(np.uint16), context.normal_images.records)
