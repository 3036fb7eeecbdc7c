"""Our own detector as an auditor sees it: with all that an attacker may know of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, partial

import torch
from torch import Tensor

from advrad.data.transforms import resize
from advrad.denoisers.sampling import GradientPath
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.detectors.scoring import NoiseView, ScoreConfig
from advrad.utils.precision import Precision, takes_bfloat16


class WhiteBoxAdvRAD:
    """A :class:`advrad.detectors.base.AnomalyDetector` around :class:`advrad.AdvRAD`.

    Its hints are, of the true score: each noise level alone, of one noise draw (``part ...``); each scale alone; and
    where the reconstruction is a walk of many steps, the score of the one-shot reconstruction (a surrogate), and the
    true score with gradients that skip the walk (BPDA). What they find is judged by the true score.

    Args:
        detector: is put in evaluation mode, and its parameters are frozen: gradients for them would cost a third of an
            attack.
        gradients: arithmetic of what is asked with gradients on; ``auto`` is bfloat16 where the processor has it.
            Scores without gradients are always in the arithmetic of use.
    """

    deterministic = False
    differentiable = True

    def __init__(self, detector: AdvRAD, gradients: Precision = "float32") -> None:
        self.gradients = gradients
        self.detector = detector.eval().requires_grad_(False)
        calibration = detector.detector_config.calibration
        self.threshold = None if calibration is None else calibration.threshold
        self.size_px: int = detector.size_px
        self.noise_seed: int = detector.detector_config.noise_seed

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        with self._arithmetic():
            scores, maps, _ = self.detector.examine(images.to(self.detector.device), generator)
        return DetectorOutput(scores, maps)

    def in_arithmetic(self, gradients: Precision) -> WhiteBoxAdvRAD:
        """The same detector, with gradients of another arithmetic."""
        return WhiteBoxAdvRAD(self.detector, gradients)

    def _arithmetic(self) -> torch.autocast:
        if not torch.is_grad_enabled():
            return self.detector.arithmetic()
        device = self.detector.device
        return torch.autocast(device.type, torch.bfloat16, enabled=takes_bfloat16(self.gradients, device))

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        config = self.detector.detector_config.score
        quick = config.model_copy(update={"draws": 1})
        sigmas = sorted({look.sigma for look in config.looks})
        surrogates: dict[str, SurrogateLoss] = {}
        for sigma in sigmas:
            looks = [look for look in config.looks if look.sigma == sigma]
            surrogates[f"part noise {sigma:g}"] = partial(self._climb, quick, looks, None, "exact")
        levels = len(config.map_sizes) // len(config.looks)
        for level in range(levels if levels > 1 else 0):
            surrogates[f"scale 1/{2**level}"] = partial(self._climb, quick, config.looks, level, "exact")
        if config.steps > 1:
            shot = quick.model_copy(update={"steps": 1})
            surrogates["one shot"] = partial(self._climb, shot, config.looks, None, "exact")
            surrogates["straight through"] = partial(self._climb, quick, config.looks, None, "straight")
        return surrogates

    def _climb(
        self,
        config: ScoreConfig,
        looks: Iterable[NoiseView],
        level: int | None,
        path: GradientPath,
        images: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        images = resize(images.to(self.detector.device), self.size_px)
        scores = []
        with self._arithmetic():
            for look in looks:
                members, _ = self.detector.members(images, look, config, generator, path)
                scores += [part for index, (part, _) in enumerate(members) if level in (None, index)]
        return torch.stack(scores).mean(0)
