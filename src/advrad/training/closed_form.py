"""Fit a closed-form detector to normal images: nothing is trained, so it takes seconds.

The images are divided, so that the promise of the threshold holds:

- **Part A** decides everything that is chosen or learned: the plan, the registration, the mean and spread of distances.
- **Part B** gives the threshold: the conformal quantile of its scores.

With few images all of them are the memory, and each image of part B is scored against all others. The images of part B
and a new normal image are exchangeable given part A. If the new image joined the memory, the scores of part B could
only fall, so the quantile errs on the safe side. With many images the memory is chosen from part A, which alone is
enough for the same promise. The false-alarm rate is at most the given one (proof in docs/certificates.md). With very
few images there is no part A: the plan is fixed, and distances are not standardised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.data.splits import ALL_IN_MEMORY, LEAST_IN_PART_A, normals_needed, rate_in_reach, split_for_memory
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_config import ClosedFormConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.config import Calibration, ImageCounts, TrainingRecord
from advrad.detectors.conformal import calibration_from
from advrad.errors import ConfigError, DataError
from advrad.training.closed_form_members import Normals, fit_member, groups_of
from advrad.training.closed_form_plan import COARSE, FIXED, MemberPlan
from advrad.training.closed_form_selection import USUAL_RADIUS, Radius, TriedPlans, choose_plans, name_of
from advrad.training.closed_form_strays import with_strays
from advrad.utils.environment import versions
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for

#: Images that are scored at once.
_BATCH = 8


@dataclass(frozen=True)
class _Parts:
    """Numbers of the images by purpose, duplicates left out.

    Attributes:
        learn: Part A; may be empty.
        threshold: Part B.
        memory: Images of the memory.
    """

    learn: tuple[int, ...]
    threshold: tuple[int, ...]
    memory: tuple[int, ...]


def fit_closed_form(
    images: Tensor,
    plans: Sequence[MemberPlan] | None = None,
    *,
    false_alarm_rate: float = 0.05,
    seed: int = 0,
    radius: Radius = USUAL_RADIUS,
    aspect: float = 1.0,
    image_size_px: int | None = None,
    progress: ProgressReporter = SILENT,
) -> ClosedFormDetector:
    """Fit a closed-form detector.

    Args:
        images: Normal images, (n, 3, h, w), float in [0, 1] or uint8; ``1 / false_alarm_rate - 1`` different ones at
            least.
        plans: Plans of the members; None to choose them for the product.
        false_alarm_rate: Largest probability that a new normal image exceeds the threshold, between 0 and 1.
        seed: Seed of the division of the images and of all random draws.
        radius: Perturbations for which plans are chosen.
        aspect: Width of the pictured scene divided by its height, for images that were squashed to squares.
        image_size_px: Side of the square to which image files will be scaled; None for the height of ``images``.
        progress: Receives the stages and the number of compared plans and images.

    Returns:
        The calibrated detector.

    Raises:
        ConfigError: There are too few images for the rate, or for memory patches that are chosen at random.
        DataError: The images have a wrong shape.

    Example:
        >>> images = 0.5 + 0.01 * torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> plan = MemberPlan(name="small", size_px=16, cell_px=2, patch_cells=3)
        >>> fit_closed_form(images.clamp(0, 1), [plan]).calibration.n
        20
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"images: expected (n, 3, h, w), got {tuple(images.shape)}")
    groups = groups_of(images)
    different = sorted(set(groups.tolist()))
    if len(different) < len(images):
        progress.note(f"{len(images) - len(different)} of the {len(images)} normal images are copies and count once")
    parts = _divide(different, false_alarm_rate, seed)
    normals = Normals(images, groups, parts.learn, parts.memory, aspect, seed)
    tried: list[TriedPlans] = []
    if plans is None:
        progress.stage("Choosing the plans")
        plans, tried = choose_plans(normals, radius, progress)
    if parts.memory != parts.learn and any(plan.chosen_patches is not None for plan in plans):
        # Leaving an image out of a random choice is not what joining it would undo, so the promise would be unproven.
        raise ConfigError(
            f"chosen_patches: needs more than {ALL_IN_MEMORY} different normal images, so that those of the threshold"
            " stay out of the memory",
            option="plans",
            value=name_of(plans),
        )
    progress.stage("Comparing normal images")
    members = [member for plan in plans if (member := fit_member(plan, normals)) is not None]
    if not members:  # nothing can be registered
        members = [member for member in [fit_member(COARSE, normals)] if member is not None]
    members = [with_strays(member, normals) for member in members]
    size_px = images.shape[2] if image_size_px is None else image_size_px
    config = ClosedFormConfig(
        members=tuple(member.config for member in members),
        image_size_px=size_px,
        aspect=aspect,
        held_out=parts.threshold,
        training=_record(parts, plans, tried),
    )
    detector = ClosedFormDetector(config, members)
    calibration = _calibrated(detector, members, normals, parts.threshold, false_alarm_rate, progress)
    detector.config = config.model_copy(update={"calibration": calibration})
    return detector.eval()


def _record(parts: _Parts, plans: Sequence[MemberPlan], tried: Sequence[TriedPlans]) -> TrainingRecord:
    """What is remembered of the fit."""
    counts = ImageCounts(train=len(parts.learn), selection=0, calibration=len(parts.threshold))
    winner = name_of(plans)
    reason = ""
    if tried:
        best = next((one for one in tried if one.name == winner), tried[0])
        reason = (
            f"{winner}: AUROC {best.clean:.3f}, certified {best.certified:.3f}, on held-out normal images and"
            " synthetic defects"
        )
    elif len(parts.learn) < LEAST_IN_PART_A:
        reason = "there are too few normal images to compare plans"
    elif name_of(plans) == name_of(FIXED):
        reason = "the product lies at the same place in every image"
    return TrainingRecord(
        images=counts,
        tried=tuple((one.name, one.clean) for one in tried),
        attacked=tuple((one.name, one.certified) for one in tried),
        candidates=len(tried) or None,
        winner=winner,
        reason=reason,
        versions=versions(),
    )


def _calibrated(
    detector: ClosedFormDetector,
    members: Sequence[ClosedFormMember],
    normals: Normals,
    rows: Sequence[int],
    false_alarm_rate: float,
    progress: ProgressReporter,
) -> Calibration:
    """Set the threshold from the scores of part B, each image against a memory without itself."""
    scores: list[float] = []
    maxima: list[float] = []
    with torch.no_grad():
        for part in torch.split(torch.tensor(rows), _BATCH):
            images, groups = normals.batch(part), normals.groups[part]
            by_member: list[Tensor] = []
            tops: list[Tensor] = []
            for member in members:
                standardised = member.standardise(member.distances(images, groups))
                for found, share in ((by_member, None), (tops, 0.0)):
                    pooled = member.pooled(standardised, share).view(len(part), -1).amax(1)
                    found.append(member.with_strays(pooled, images))
            scores += torch.stack(by_member).amax(0).tolist()
            maxima += torch.stack(tops).amax(0).tolist()
            progress.update(len(scores), len(rows))
    return calibration_from(scores, maxima, false_alarm_rate)


def _divide(different: Sequence[int], false_alarm_rate: float, seed: int) -> _Parts:
    """Divide images that differ between the two purposes.

    Raises:
        ConfigError: There are too few images for the rate.
    """
    count = len(different)
    split = split_for_memory(count, false_alarm_rate)
    if split is None:
        raise ConfigError(
            f"needs {max(normals_needed(false_alarm_rate), 2)} different normal images, there are {count}; give more"
            f" images or a rate of {rate_in_reach(count):g} or more",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    if not split.choice:
        return _Parts((), tuple(different), tuple(different))
    order = torch.randperm(count, generator=generator_for(seed, "closed form")).tolist()
    shuffled = [different[index] for index in order]
    learn, threshold = sorted(shuffled[split.threshold :]), sorted(shuffled[: split.threshold])
    return _Parts(tuple(learn), tuple(threshold), tuple(different if split.leaves_one_out else learn))
