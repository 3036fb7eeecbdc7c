"""The images of a guarded detector, by purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from advrad.data.framing import Framing
from advrad.data.loading import ImageStack
from advrad.detectors.feature_memory import FeatureDetector
from advrad.training.calibration_data import CalibrationData
from advrad.training.closed_form import ClosedFormFit
from advrad.training.guard_trial import Scorer, TrialSplit, split_for_trial


@dataclass(frozen=True, eq=False)
class GuardParts:
    """The images of a fit, by purpose.

    Attributes:
        fit: The fitted memory.
        images: The images.
        framing: How they became working images.
        seed: Seed of the division for the choice.
        apart: Whether the judged images stay out of what the halves of the choice are fitted to.
    """

    fit: ClosedFormFit
    images: ImageStack
    framing: Framing
    seed: int
    apart: bool

    @property
    def learn(self) -> tuple[int, ...]:
        """Part A."""
        return self.fit.normals.learn

    @property
    def threshold(self) -> tuple[int, ...]:
        """Part B."""
        return self.fit.detector.config.held_out

    @property
    def different(self) -> tuple[int, ...]:
        """All images, copies left out."""
        return tuple(sorted({*self.learn, *self.threshold}))

    @cached_property
    def split(self) -> TrialSplit:
        """The images of the choice: part A; part B where there is no part A."""
        if not self.learn:
            return split_for_trial(self.threshold, self.seed, apart=False)
        return split_for_trial(self.learn, self.seed, apart=self.apart)

    @property
    def divided(self) -> CalibrationData:
        """The images as the training of a denoiser divides them."""
        rows = (self.split.bank, self.split.judged, self.threshold)
        return CalibrationData(*(self.images.at(list(part)) for part in rows))

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Images by number, (b, 3, s, s) float in [0, 1].

        Args:
            rows: Their numbers, b.
        """
        return self.fit.normals.batch(torch.tensor(rows, dtype=torch.long))


def left_out(detector: FeatureDetector, rows: Sequence[int]) -> Scorer:
    """Scores of images, each compared with the others only.

    Args:
        detector: Detector on features.
        rows: Numbers of the images of its bank.
    """
    place = {row: index for index, row in enumerate(rows)}

    def scores(images: Tensor, exclude: Tensor) -> Tensor:
        return detector.scores(images, torch.tensor([place[row] for row in exclude.tolist()]))

    return scores
