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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advrad.data.array_checks import check_images
from advrad.data.arrays import pixels_of
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.splits import ALL_IN_MEMORY, LEAST_IN_PART_A, rate_in_reach, split_for_memory
from advrad.data.sufficiency import NormalCount, check_enough
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_config import ClosedFormConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.config import ImageCounts, TrainingRecord
from advrad.detectors.conformal import calibration_from, conformal_threshold
from advrad.errors import ConfigError
from advrad.training.closed_form_members import STATISTICS, Normals, fit_member, groups_of
from advrad.training.closed_form_notes import note_on_likeness, note_on_strangers, strangers_among
from advrad.training.closed_form_plan import COARSE, FIXED, MemberPlan
from advrad.training.closed_form_selection import USUAL_RADIUS, Radius, TriedPlans, choose_plans, name_of
from advrad.training.closed_form_strays import with_strays
from advrad.utils.environment import versions
from advrad.utils.progress import SILENT, Counter, ProgressReporter
from advrad.utils.seeding import generator_for
from advrad.utils.threads import thread_count

if TYPE_CHECKING:
    from advrad.data.arrays import ImageInput

#: Images that are scored at once.
_BATCH = 8
#: Images of part A are compared once more, to find one that does not belong to them, where their scores spread this
#: many times as far as those of part B.
_SUSPICIOUS = 3.0


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
    images: ImageInput,
    plans: Sequence[MemberPlan] | None = None,
    *,
    false_alarm_rate: float = 0.05,
    seed: int = 0,
    radius: Radius = USUAL_RADIUS,
    aspect: float = 1.0,
    image_size_px: int | None = None,
    names: Sequence[str] = (),
    progress: ProgressReporter = SILENT,
) -> ClosedFormDetector:
    """Fit a closed-form detector.

    Args:
        images: Normal images, (n, 3, h, w), float in [0, 1] or uint8, or another form that
            :func:`advrad.data.arrays.pixels_of` takes; ``1 / false_alarm_rate - 1`` different ones at least.
        plans: Plans of the members; None to choose them for the product.
        false_alarm_rate: Largest probability that a new normal image exceeds the threshold, between 0 and 1.
        seed: Seed of the division of the images and of all random draws.
        radius: Perturbations for which plans are chosen.
        aspect: Width of the pictured scene divided by its height, for images that were squashed to squares.
        image_size_px: Side of the square to which image files will be scaled; None for the height of ``images``.
        names: Names of the images, n, for notes; empty to number them.
        progress: Receives the stages, the number of compared images, and notes about odd images.

    Returns:
        The calibrated detector.

    Raises:
        ConfigError: There are too few images for the rate, or for centres.
        DataError: The images have another shape or type, or values that are not finite or outside [0, 1].

    Example:
        >>> images = 0.5 + 0.01 * torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> plan = MemberPlan(name="small", size_px=16, cell_px=2, patch_cells=3)
        >>> fit_closed_form(images.clamp(0, 1), [plan]).calibration.n
        20
    """
    return fit_with_plans(
        images,
        plans,
        false_alarm_rate=false_alarm_rate,
        seed=seed,
        radius=radius,
        aspect=aspect,
        image_size_px=image_size_px,
        names=names,
        progress=progress,
    ).detector


@dataclass(frozen=True, eq=False)
class ClosedFormFit:
    """A closed-form detector, and what fits others like it to a part of the images.

    Attributes:
        detector: The calibrated detector.
        plans: Plans of its members, one for each.
        normals: The images: ``normals.learn`` are part A, ``detector.config.held_out`` part B.
        scores: Scores of part B, each image left out of the memory.
        heights: Largest values of the anomaly maps of part B.
    """

    detector: ClosedFormDetector
    plans: tuple[MemberPlan, ...]
    normals: Normals
    scores: tuple[float, ...]
    heights: tuple[float, ...]

    @property
    def leaves_one_out(self) -> bool:
        """Whether the images of part B are in the memory."""
        return not set(self.detector.config.held_out).isdisjoint(self.normals.memory)


def fit_with_plans(
    images: ImageInput,
    plans: Sequence[MemberPlan] | None = None,
    *,
    false_alarm_rate: float = 0.05,
    seed: int = 0,
    radius: Radius = USUAL_RADIUS,
    aspect: float = 1.0,
    image_size_px: int | None = None,
    names: Sequence[str] = (),
    progress: ProgressReporter = SILENT,
) -> ClosedFormFit:
    """Fit a closed-form detector, and give its plans as well; see :func:`fit_closed_form`."""
    images = _checked(images)
    groups = groups_of(images)
    different = sorted(set(groups.tolist()))
    if len(different) < len(images):
        progress.note(
            f"{len(images) - len(different)} of the {len(images)} normal images are copies, equal at 64 px, and count"
            " once: the distance of a copy to the others would be 0"
        )
    parts = _divide(different, false_alarm_rate, seed)
    normals = Normals(images, groups, parts.learn, parts.memory, aspect, seed)
    tried: list[TriedPlans] = []
    if plans is None:
        progress.stage("Choosing the plans")
        plans, tried = choose_plans(normals, radius, progress)
    _check_centres(plans, parts)
    progress.stage("Comparing normal images")
    counter = Counter(progress, len(plans) * min(len(parts.learn), STATISTICS) + len(parts.threshold))
    fitted = [(plan, found) for plan in plans if (found := fit_member(plan, normals, counter.advance)) is not None]
    if not fitted:  # nothing can be registered
        fitted = [(plan, found) for plan in [COARSE] if (found := fit_member(plan, normals)) is not None]
    members = [with_strays(member, normals) for _, member in fitted]
    size_px = images.shape[2] if image_size_px is None else image_size_px
    config = ClosedFormConfig(
        members=tuple(member.config for member in members),
        image_size_px=size_px,
        aspect=aspect,
        held_out=parts.threshold,
        training=_record(parts, plans, tried),
    )
    detector = ClosedFormDetector(config, members)
    scored = _score(members, normals, parts.threshold, counter)
    scores, heights = scored.largest(), scored.tops.amax(0).tolist()
    pictures = PictureReference.of(picture_statistics(images[row]) for row in parts.threshold)
    calibration = calibration_from(scores, heights, false_alarm_rate, pictures=pictures)
    detector.config = config.model_copy(update={"calibration": calibration})
    for note in _notes(members, normals, scored, parts.threshold, false_alarm_rate, names):
        progress.note(note)
    return ClosedFormFit(detector.eval(), tuple(plan for plan, _ in fitted), normals, tuple(scores), tuple(heights))


def _checked(images: ImageInput) -> Tensor:
    """Normal images, (n, 3, h, w) uint8 or float32 in [0, 1]; whatever else is unambiguous becomes that."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        return pixels_of(images)
    if images.dtype == torch.uint8:
        return images
    return check_images(images).detach().to(torch.float32)


def _check_centres(plans: Sequence[MemberPlan], parts: _Parts) -> None:
    """Refuse centres where the images of the threshold are in the memory: they could not be left out of it."""
    if parts.memory != parts.learn and any(plan.centres is not None for plan in plans):
        raise ConfigError(
            f"centres: need more than {ALL_IN_MEMORY} different normal images, so that those of the threshold stay out"
            " of the memory",
            option="plans",
            value=name_of(plans),
        )


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
        threads=thread_count(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Normal images, each compared with a memory without itself.

    Attributes:
        scores: Scores by member, (members, n).
        tops: Largest values of the anomaly maps by member, (members, n).
        distances: Largest distances of the images, (n,).
    """

    scores: Tensor
    tops: Tensor
    distances: Tensor

    def largest(self) -> list[float]:
        """Scores of the detector, n."""
        scores: list[float] = self.scores.amax(0).tolist()
        return scores


def _score(members: Sequence[ClosedFormMember], normals: Normals, rows: Sequence[int], counter: Counter) -> _Scored:
    """Score normal images, each against a memory without itself."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for part in torch.split(torch.tensor(rows), _BATCH):
            images, groups = normals.batch(part), normals.groups[part]
            found: list[tuple[Tensor, Tensor, Tensor]] = []
            for member in members:
                distances = member.distances(images, groups)
                standardised = member.standardise(distances)
                scores, tops = (
                    member.with_strays(member.pooled(standardised, share).view(len(part), -1).amax(1), images)
                    for share in (None, 0.0)
                )
                found.append((scores, tops, distances.view(len(part), -1).amax(1)))
            by_member = [torch.stack(values) for values in zip(*found, strict=True)]
            parts.append((by_member[0], by_member[1], by_member[2].amax(0)))
            counter.advance(len(part))
    all_scores, all_tops, all_distances = zip(*parts, strict=True)
    return _Scored(torch.cat(all_scores, 1), torch.cat(all_tops, 1), torch.cat(all_distances))


def _notes(
    members: Sequence[ClosedFormMember],
    normals: Normals,
    scored: _Scored,
    rows: Sequence[int],
    false_alarm_rate: float,
    names: Sequence[str],
) -> Iterator[str]:
    """Notes about normal images that make the detector too strict or too tolerant; ``rows`` set the threshold."""

    def named(rows: Sequence[int], places: Sequence[int]) -> list[str]:
        return [names[rows[place]] if names else f"image {rows[place]}" for place in places]

    if note := note_on_likeness(scored.distances.tolist(), false_alarm_rate):
        yield note
        return
    scores = scored.largest()
    if strangers := strangers_among(scores):
        others = [score for place, score in enumerate(scores) if place not in strangers]
        # Without them there may be too few images for the rate; then the largest score is the threshold.
        rate = max(false_alarm_rate, rate_in_reach(len(others)))
        threshold, without = (conformal_threshold(part, rate) for part in (scores, others))
        yield note_on_strangers(named(rows, strangers), threshold, without)
    middle = scored.scores.median(1).values
    spread = scored.scores.quantile(0.8, dim=1) - middle  # in units of the scores of part A
    if normals.learn and float(spread.amin()) * _SUSPICIOUS < 1:
        learn = _score(members, normals, normals.learn, Counter(SILENT, 0))
        found = {
            place
            for of_learn, usual in zip(learn.scores.tolist(), scored.scores.tolist(), strict=True)
            for place in strangers_among(of_learn, usual)
        }
        if found:
            yield note_on_strangers(named(normals.learn, sorted(found)))


def _divide(different: Sequence[int], false_alarm_rate: float, seed: int) -> _Parts:
    """Divide images that differ between the two purposes.

    Raises:
        ConfigError: There are too few images for the rate.
    """
    count = len(different)
    check_enough(NormalCount(count), false_alarm_rate)
    split = split_for_memory(count, false_alarm_rate)
    if split is None or not split.choice:
        return _Parts((), tuple(different), tuple(different))
    order = torch.randperm(count, generator=generator_for(seed, "closed form")).tolist()
    shuffled = [different[index] for index in order]
    learn, threshold = sorted(shuffled[split.threshold :]), sorted(shuffled[: split.threshold])
    return _Parts(tuple(learn), tuple(threshold), tuple(different if split.leaves_one_out else learn))
