"""Score held-out normal images and synthetic defects with all halves of a guarded detector, for its choices.

No half may have seen the images that are judged. The images that set the thresholds take no part, unless a choice moves
no threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.direction import doubt_scores
from advrad.detectors.saved import SupportsPrediction
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError, DetectorError
from advrad.training.closed_form import ClosedFormFit
from advrad.training.closed_form_members import Normals, fit_member
from advrad.training.closed_form_strays import with_strays
from advrad.training.guard_choice import Judged
from advrad.training.score_selection import with_defects
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for

#: Normal images that are judged, at most.
MOST_JUDGED = 40
#: Radius, linf, of the bounds.
RADIUS = 2 / 255

#: Function of images, (b, 3, s, s), and of the numbers of normal images that they are not compared with, (b,) int64,
#: that gives scores, (b,).
Scorer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrialSplit:
    """Images for a choice, by number.

    Attributes:
        bank: Images that the halves may be fitted to.
        judged: Images that are judged. Where they are in ``bank``, too, each is left out in turn.
    """

    bank: tuple[int, ...]
    judged: tuple[int, ...]

    @property
    def leaves_one_out(self) -> bool:
        """Whether the judged images are in the bank."""
        return set(self.judged) <= set(self.bank)


def split_for_trial(images: Sequence[int], seed: int, *, apart: bool) -> TrialSplit:
    """Divide images for a choice.

    Args:
        images: Numbers of the images.
        seed: Seed of the division.
        apart: Whether the judged images must stay out of the bank. Then a third of the images is judged.

    Example:
        >>> split = split_for_trial(range(9), 0, apart=True)
        >>> len(split.bank), len(split.judged)
        (6, 3)
        >>> split_for_trial(range(9), 0, apart=False).leaves_one_out
        True
    """
    order = torch.randperm(len(images), generator=generator_for(seed, "guard")).tolist()
    most = min(MOST_JUDGED, len(images) // 3 if apart else len(images))
    judged, others = order[:most], order[most:] if apart else order
    return TrialSplit(*(tuple(sorted(images[place] for place in part)) for part in (others, judged)))


def memory_for_trial(fit: ClosedFormFit, split: TrialSplit) -> ClosedFormDetector:
    """The memory as it would be without the images that set the thresholds, and without those that are judged.

    A memory of whole images loses those of the thresholds, and each judged image is left out when it is scored. Centres
    mix images, so such a member is fitted to the bank anew.

    Args:
        fit: The fitted memory.
        split: The images of the choice; all are of part A.
    """
    bank, fitted = replace(fit.normals, learn=split.bank, memory=split.bank), fit.detector.members
    members = []
    for plan, member in zip(fit.plans, fitted, strict=True):
        if not isinstance(member, ClosedFormMember):
            continue
        if bool((member.memory.groups < 0).any()) and not split.leaves_one_out:
            trial = fit_member(plan, bank)
            member = member if trial is None else with_strays(trial, bank)
        members.append(_of_known(member, fit.normals))
    config = fit.detector.config.model_copy(update={"members": tuple(member.config for member in members)})
    return ClosedFormDetector(config, members).eval()


def _of_known(member: ClosedFormMember, normals: Normals) -> ClosedFormMember:
    """The member without images that set the thresholds in its memory."""
    memory = member.memory
    known = torch.isin(memory.groups, torch.tensor(normals.learn)) | (memory.groups < 0)
    if bool(known.all()):
        return member
    kept = PatchMemory(memory.config, memory.sheets[known], memory.groups[known])
    return ClosedFormMember(member.config, member.view, kept, member.mean, member.spread)


def scorer_of(detector: AnomalyDetector | SupportsPrediction) -> Scorer:
    """Scores of a half that has seen none of the images, as it predicts once deployed.

    Args:
        detector: The half.
    """
    deployed = detector.detector if isinstance(detector, WhiteBoxAdvRAD) else detector

    def scores(images: Tensor, exclude: Tensor) -> Tensor:
        if isinstance(deployed, SupportsPrediction):
            return deployed.predict_batch(images).scores
        return deployed.infer(images, torch.Generator().manual_seed(deployed.noise_seed or 0)).scores

    return scores


def refuse_direction(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], name: str) -> None:
    """Refuse a detector whose score is the same for all images, or larger for normal ones.

    Args:
        labels: Labels of the judged images, (n,).
        scores: Scores of the detector, (n,).
        name: Name of the detector.

    Raises:
        ConfigError: It is one of these.
    """
    doubt = doubt_scores(labels, scores, from_folder=False)
    if doubt is not None:
        raise ConfigError(
            f"held-out normal images and the same images with synthetic defects were scored: {doubt.words}",
            option="features",
            value=name,
        )


def judge(
    memory: ClosedFormDetector,
    others: Mapping[str, Scorer],
    images: Tensor,
    numbers: Sequence[int],
    seed: int,
    progress: ProgressReporter = SILENT,
) -> Judged:
    """Score normal images, and copies of them with synthetic defects, with all halves.

    Args:
        memory: The memory.
        others: Scores of the other halves, by name.
        images: Normal images, (n, 3, s, s) float in [0, 1].
        numbers: Their numbers, n; each is left out of the memory with its copies.
        seed: Seed of the defects.
        progress: Receives the number of images done.

    Raises:
        DetectorError: A half gives no finite score for an image.
    """
    anomalous, sources = with_defects(images, generator_for(seed, "guard defects"))
    of_images = torch.tensor(numbers)
    groups = torch.cat([of_images, of_images[sources]])
    rows = np.empty((3 + len(others), len(groups)))
    for index, image in enumerate([*images, *anomalous]):
        left_out = groups[index : index + 1]
        with torch.no_grad():
            bounds = memory.score_bounds(image[None], RADIUS, "linf", exclude=left_out)
            scores = [float(score(image[None], left_out)) for score in others.values()]
        rows[:, index] = [*(float(part) for part in (bounds.scores, bounds.lower, bounds.upper)), *scores]
        progress.update(index + 1, len(groups))
    for name, scores in zip(others, rows[3:], strict=True):
        if not np.isfinite(scores).all():
            raise DetectorError(f"{name}: its score of a normal image is not a finite number; mend the detector")
    memory_scores, lower, upper = rows[:3]
    return Judged(np.repeat([0, 1], [len(images), len(anomalous)]), memory_scores, lower, upper, rows[3:])
