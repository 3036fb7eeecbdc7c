"""A guarded detector as a system of the bench: another detector of the grid beside the closed form, see advrad.guard.

Both learn from the same normal images, and no threshold rests on images that its half learned from:

- More than 64 normal images: the closed form keeps part A in its memory, and part B sets its threshold. The other
  detector learns from part A alone, and part B sets its threshold, too.
- Fewer: all are in the memory, and each image of part B is left out in turn. Our detector on features does the same.
  Any other detector learns from half of the images, drawn at random, and the other half sets its threshold.
- AdvRAD holds out images of its own when it is trained, which have set its threshold.

The ceiling of the other detector's surprise is chosen as ``advrad train --features`` does it, on the normal images that
set the thresholds and synthetic defects: no verdict depends on it. For AdvRAD it is that of :func:`advrad.guard`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from advrad.baselines.base import FitContext
from advrad.baselines.closed_form import fit_memory, most_images
from advrad.data.loading import ImageStack
from advrad.data.splits import rate_in_reach
from advrad.detectors.base import AnomalyDetector
from advrad.errors import ConfigError
from advrad.utils.config import Config

if TYPE_CHECKING:
    from advrad.detectors.advrad import AdvRAD
    from advrad.detectors.feature_memory import FeatureDetector
    from advrad.detectors.guarded import GuardedDetector
    from advrad.training.closed_form import ClosedFormFit
    from advrad.training.guard_trial import Scorer

#: Name of the other detector in verdicts and surrogate losses.
OTHER = "other"


class GuardedOptions(Config):
    """Options of a guarded detector.

    Attributes:
        false_alarm_rate: Largest share of normal images that may be called defective, by both halves together. If there
            are too few images for it, the lowest rate that they allow is used.
    """

    false_alarm_rate: float = Field(0.05, gt=0, lt=1)


def fit_guarded(
    context: FitContext, options: GuardedOptions, inner: Callable[[FitContext], AnomalyDetector]
) -> GuardedDetector:
    """Fit the closed form and another detector to the same normal images, and put the one beside the other.

    Args:
        context: Training images, of which the closed form takes 400 at most; with ``diffusion`` if the other detector
            is AdvRAD.
        options: False-alarm rate of the pair.
        inner: Function that fits the other detector.

    Raises:
        ConfigError: The two do not belong together, see :func:`advrad.guard`.
    """
    from advrad.detectors.feature_memory import FeatureDetector

    images = most_images(context)
    pair = _Pair(context, images, fit_memory(context, images, options.false_alarm_rate / 2), options.false_alarm_rate)
    if context.diffusion is not None:
        return pair.beside_learned(context.diffusion(), inner(context))
    learn, held = pair.division()
    found = inner(replace(context, normal_images=images.at(learn)))
    if pair.fit.leaves_one_out and isinstance(found, FeatureDetector):
        return pair.beside_features(found)
    return pair.beside(found, held)


@dataclass(frozen=True, eq=False)
class _Pair:
    """A fitted closed form, beside which another detector is put.

    Attributes:
        context: Gives the seed and the progress reporter.
        images: Images to which the closed form was fitted.
        fit: The closed form.
        false_alarm_rate: Wanted rate of the pair.
    """

    context: FitContext
    images: ImageStack
    fit: ClosedFormFit
    false_alarm_rate: float

    @property
    def different(self) -> list[int]:
        """Numbers of the images, copies left out."""
        return sorted({*self.fit.normals.learn, *self.fit.detector.config.held_out})

    def division(self) -> tuple[list[int], list[int]]:
        """Numbers of the images from which another detector learns, and of those that set its threshold."""
        if not self.fit.leaves_one_out:
            return list(self.fit.normals.learn), list(self.fit.detector.config.held_out)
        rows = self.different
        order = torch.randperm(len(rows), generator=self.context.generator("guarded")).tolist()
        half = len(rows) // 2
        learn, held = (sorted(rows[place] for place in part) for part in (order[:half], order[half:]))
        return learn, held

    def beside(self, detector: AnomalyDetector, held: Sequence[int]) -> GuardedDetector:
        """Put a detector beside the closed form whose threshold images set from which it did not learn."""
        import advrad
        from advrad.training.guard_trial import scorer_of

        normals = self.images.batch(held)
        made = advrad.guard(
            detector, self.fit.detector, normals, false_alarm_rate=self._rate(len(held)), ceiling=0.0, name=OTHER
        )
        return self._with_ceiling(made, scorer_of(detector), held)

    def beside_features(self, detector: FeatureDetector) -> GuardedDetector:
        """Put the detector on features beside the closed form, fitted again to all images, each left out in turn."""
        import advrad
        from advrad.detectors.conformal import calibration_from
        from advrad.training.feature_fit import fit_features
        from advrad.training.guard_parts import left_out

        rows, held = self.different, self.fit.detector.config.held_out
        network = detector.config.network
        whole = fit_features(
            self.images.batch(rows),
            network=network.name,
            layers=network.layers,
            leave_one_out=True,
            seed=self.context.seed,
            progress=self.context.progress,
        )
        scorer = left_out(whole, rows)
        with torch.no_grad():
            scores = [float(scorer(self.images.batch([row]), torch.tensor([row]))) for row in held]
        calibration = calibration_from(scores, scores, max(self.false_alarm_rate, rate_in_reach(len(held))))
        whole.update_config(calibration=calibration)
        rate = self._rate(len(held))
        made = advrad.guard(whole, self.fit.detector, false_alarm_rate=rate, ceiling=0.0, name=OTHER)
        return self._with_ceiling(made, scorer, held)

    def beside_learned(self, learned: AdvRAD, detector: AnomalyDetector) -> GuardedDetector:
        """Put AdvRAD, in its form for attacks, beside the closed form; it has a threshold from images of its own."""
        import advrad

        calibration = learned.detector_config.calibration
        if calibration is None:
            raise ConfigError("the AdvRAD to guard has no threshold; calibrate it")
        rate = self._rate(len(calibration.scores))
        return advrad.guard(detector, self.fit.detector, false_alarm_rate=rate, name=OTHER)

    def _rate(self, other: int) -> float:
        """Rate of the pair, or the lowest that the memory's images and ``other`` ones allow."""
        lowest = 1 / (len(self.fit.detector.calibration.scores) + 1) + 1 / (other + 1)
        return max(self.false_alarm_rate, math.ceil(1e4 * lowest) / 1e4)

    def _with_ceiling(self, made: GuardedDetector, scorer: Scorer, held: Sequence[int]) -> GuardedDetector:
        """Choose the ceiling on normal images that the other detector has not seen, and synthetic defects."""
        from advrad.training.guard_choice import choose_ceiling
        from advrad.training.guard_trial import MOST_JUDGED, judge

        self.context.progress.stage("Choosing the ceiling")
        rows = list(held)[:MOST_JUDGED]
        batch, seed = self.images.batch(rows), self.context.seed
        judged = judge(self.fit.detector, {OTHER: scorer}, batch, rows, seed, self.context.progress)
        rates = [test.false_alarm_rate for test in made.tests]
        made.update_config(ceiling=choose_ceiling(judged, rates)[0].value)
        return made
