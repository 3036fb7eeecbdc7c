"""AdvRAD as an attacker sees it: the detector interface, with surrogate losses for every part of the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from advrad.data.framing import Framing
from advrad.denoisers.sampling import GradientPath
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.utils.precision import Precision, takes_bfloat16


class WhiteBoxAdvRAD:
    """The :class:`advrad.detectors.base.AnomalyDetector` of an :class:`advrad.AdvRAD` model.

    Its surrogate losses are the score at each noise level alone, from one noise draw (components of the score); the
    score of each scale alone; and, for reconstructions of many steps, the score of the one-step reconstruction, and the
    true score with gradients that bypass the later steps (BPDA).

    Args:
        detector: Model. It is put in evaluation mode and its parameters are frozen: their gradients would take a third
            of the time of an attack.
        gradients: Precision of computations that record gradients; ``auto`` is bfloat16 where the processor supports
            it. Scores without gradients are always computed in the model's own precision.

    Example:
        Needs a trained model folder.

        >>> model = AdvRAD.from_pretrained("bottle")  # doctest: +SKIP
        >>> list(WhiteBoxAdvRAD(model).surrogates)  # doctest: +SKIP
        ['part noise 0.05', 'part noise 0.1', 'scale 1/1', 'scale 1/2', 'scale 1/4', 'scale 1/8']
    """

    deterministic = False
    differentiable = True

    def __init__(self, detector: AdvRAD, gradients: Precision = "float32") -> None:
        self.detector = detector.eval().requires_grad_(False)
        self.gradients = gradients
        calibration = detector.detector_config.calibration
        self.threshold = None if calibration is None else calibration.threshold
        self.size_px: int = detector.size_px
        self.noise_seed: int = detector.detector_config.noise_seed

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        with self.autocast():
            output = self.detector.infer(images.to(self.detector.device), generator)
        return DetectorOutput(output.scores, output.anomaly_maps)

    @property
    def framing(self) -> Framing:
        """How image files become working images."""
        return self.detector.framing

    @property
    def reconstruction_model(self) -> AdvRAD:
        """See :class:`advrad.detectors.base.SupportsTwoPath`."""
        return self.detector

    @property
    def gradient_precision(self) -> Literal["float32", "bfloat16"]:
        """See :class:`advrad.detectors.base.SupportsGradientPrecision`."""
        return "bfloat16" if takes_bfloat16(self.gradients, self.detector.device) else "float32"

    def with_gradient_precision(self, precision: Precision) -> WhiteBoxAdvRAD:
        """See :class:`advrad.detectors.base.SupportsGradientPrecision`."""
        return WhiteBoxAdvRAD(self.detector, precision)

    def autocast(self) -> torch.autocast:
        """Context of the precision of a computation: the model's own, or that of the gradients if they are recorded."""
        if not torch.is_grad_enabled():
            return self.detector.autocast()
        bf16 = self.gradient_precision == "bfloat16"
        return torch.autocast(self.detector.device.type, torch.bfloat16, enabled=bf16)

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        config = self.detector.detector_config.score
        one_draw = config.model_copy(update={"draws": 1})
        losses: dict[str, SurrogateLoss] = {}
        for sigma in sorted({view.sigma for view in config.views}):
            views = tuple(view for view in config.views if view.sigma == sigma)
            losses[f"part noise {sigma:g}"] = SurrogateLoss(PartialScore(self, one_draw, views), "component")
        for scale in range(config.maps_per_view if config.maps_per_view > 1 else 0):
            part = PartialScore(self, one_draw, config.views, scale=scale)
            losses[f"scale 1/{2**scale}"] = SurrogateLoss(part, "scale")
        if config.steps > 1:
            one_step = PartialScore(self, one_draw.model_copy(update={"steps": 1}), config.views)
            losses["one shot"] = SurrogateLoss(one_step, "one_step")
            bypassing = PartialScore(self, one_draw, config.views, path="straight")
            losses["straight through"] = SurrogateLoss(bypassing, "bpda")
        return losses


@dataclass(frozen=True)
class PartialScore:
    """A part of AdvRAD's score as a function of images and a source of noise.

    Attributes:
        owner: Detector.
        config: Score, which may differ from the detector's in draws and steps.
        views: Views that count.
        scale: Index of the scale that counts; None for all.
        path: Path of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.
    """

    owner: WhiteBoxAdvRAD
    config: ScoreConfig
    views: tuple[NoiseView, ...]
    scale: int | None = None
    path: GradientPath = "exact"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the mean of the standardised scores that count, (b,), for images, (b, 3, h, w), in [0, 1]."""
        model = self.owner.detector
        images = model.framing.apply(images.to(model.device))
        counted = []
        with self.owner.autocast():
            for view in self.views:
                parts, _ = model.view_scores(images, view, self.config, generator, self.path)
                counted += [score for scale, (score, _) in enumerate(parts) if self.scale in (None, scale)]
        return torch.stack(counted).mean(0)
