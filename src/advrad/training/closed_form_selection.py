"""Choose the plans of a closed-form detector for a product, from its normal images and synthetic defects.

Only images to learn from are used: some become the memory, others are scored as they are and with synthetic defects.
Test images and the images that set the threshold are never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.data.splits import ALL_IN_MEMORY, LEAST_IN_PART_A
from advrad.data.synthetic import DEFECTS, paste_defects
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredView
from advrad.detectors.views import Norm, WholeView
from advrad.metrics import auroc
from advrad.training.closed_form_members import Normals, fit_member, make_view
from advrad.training.closed_form_plan import (
    FIXED,
    FOR_FIXED_PLACE,
    FOR_L2,
    FOR_L2_SURFACES,
    FOR_MOVING_PARTS,
    FOR_SURFACES,
    FOR_TURNED_PARTS,
    REGISTERED,
    MemberPlan,
)
from advrad.utils.progress import SILENT, Counter, ProgressReporter
from advrad.utils.seeding import generator_for, seed_of

#: Images that become the memory while plans are compared, images that are scored, and images in which parts are
#: looked for, at most.
_MEMORY, _SCORED, _PLACES = 40, 20, 24
#: Distance, as a share of the image, up to which patches at a fixed place find each other.
_TOLERATED = 8 / 256
#: How much the light of images in use may differ, and their position, in half sides of an image.
_CHANGE_OF_LIGHT, _CHANGE_OF_PLACE = 0.1, 2 / 256
#: Draws of a synthetic defect that lies on a part, at most.
_ATTEMPTS = 12
#: Synthetic defects for each scored image, and how many of these are certified.
_DEFECTS, _CERTIFIED = 3, 1
#: Sites with exact bounds while plans are compared.
_EXACT_SITES = 24
#: Patches in the memory of plans without a window while plans are compared, or centres.
_PATCHES, _CENTRES = 12_000, 4_000
#: A plan with gain is preferred if its figure is at most this much lower: changes of light are rare among normal
#: images and frequent in use.
_PREFERENCE = 0.01
#: Smallest patches, cells, that are tried with gain: smaller ones hold little beside their brightness.
_LEAST_WITH_GAIN = 7
#: Centres are preferred if their figure is at most this much lower: their verdict takes a tenth of the time.
_QUICKER = 0.01
#: Kinds of synthetic defects. Uneven light is none: whether a plan tolerates it is not a fault.
_KINDS = tuple(name for name in DEFECTS if name != "shade")


@dataclass(frozen=True)
class Radius:
    """Perturbations for which plans are chosen.

    Attributes:
        norm: Norm.
        size: Largest norm, > 0, in pixel units.
    """

    norm: Norm = "linf"
    size: float = 2 / 255


#: Perturbations for which plans are chosen where nothing else is asked for.
USUAL_RADIUS = Radius()


@dataclass(frozen=True)
class TriedPlans:
    """Plans of the members of a detector, with their figures on images to learn from.

    Attributes:
        plans: Plans.
        clean: AUROC of normal images against the same images with synthetic defects.
        certified: Certified AUROC of these.
        figure: What counts: both, the clean one twice, because it is measured on more images; for an l2 radius the
            certified one alone.
    """

    plans: tuple[MemberPlan, ...]
    clean: float
    certified: float
    figure: float

    @property
    def name(self) -> str:
        """Names of the plans."""
        return name_of(self.plans)


def name_of(plans: Sequence[MemberPlan]) -> str:
    """Names of plans, for records and messages."""
    return " and ".join(plan.name for plan in plans)


def choose_plans(
    normals: Normals, radius: Radius = USUAL_RADIUS, progress: ProgressReporter = SILENT
) -> tuple[tuple[MemberPlan, ...], list[TriedPlans]]:
    """Choose the plans for a product: those with the best clean and certified AUROC.

    A product that stands out from its background and always lies at the same place gets the plans for that, and for
    parts that move and for surfaces there are others. The certified AUROC alone counts for an l2 norm.

    Args:
        normals: Normal images; only those to learn from are used.
        radius: Perturbations that count.
        progress: Receives the number of images with bounds, of those of all plans.

    Returns:
        The chosen plans, and all that were compared, best first; none if nothing had to be compared, or
        with fewer than :data:`advrad.data.splits.LEAST_IN_PART_A` images.
    """
    if len(normals.learn) < LEAST_IN_PART_A:
        return FIXED, []
    order = torch.randperm(len(normals.learn), generator=generator_for(normals.seed, "plans")).tolist()
    rows = [normals.learn[place] for place in order]
    scored = min(_SCORED, len(rows) // 3)
    memory = tuple(sorted(rows[scored : scored + _MEMORY]))
    trial = replace(normals, learn=memory, memory=memory)
    queries = _as_in_use(normals.batch(torch.tensor(rows[:scored])), normals.seed)
    donors = normals.batch(torch.tensor((memory * scored)[:scored]))
    view = make_view(REGISTERED, trial)
    candidates = FOR_SURFACES if view is None else FOR_MOVING_PARTS
    if isinstance(view, RegisteredView) and any(part.flip != "none" for part in view.config.parts):
        candidates = FOR_TURNED_PARTS
    elif isinstance(view, RegisteredView) and not moves(view, normals.batch(torch.tensor(memory[:_PLACES]))):
        # No image can be left out of centres.
        candidates = FOR_FIXED_PLACE if len(normals.memory) > ALL_IN_MEMORY else (FIXED,)
    apart = normals.memory == normals.learn  # the images of the threshold stay out of the memory
    if radius.norm == "l2":
        candidates += FOR_L2_SURFACES if view is None else FOR_L2
    if len(candidates) == 1:
        return candidates[0], []
    defects = _with_defects(queries, donors, view, normals.seed)
    tried: list[TriedPlans] = []
    bounded = scored * (1 + _CERTIFIED)  # images with bounds, which take most of the time, for each candidate
    counter = Counter(progress, bounded * (len(candidates) + 1))

    def try_out(plans: tuple[MemberPlan, ...]) -> None:
        small = [
            plan.model_copy(update={"patches": _PATCHES, "centres": plan.centres and min(plan.centres, _CENTRES)})
            for plan in plans
        ]
        members = [member for plan in small if (member := fit_member(plan, trial)) is not None]
        if members:
            clean, certified = _figures(members, queries, defects, radius, counter)
            figure = certified if radius.norm == "l2" else (2 * clean + certified) / 3
            tried.append(TriedPlans(plans, clean, certified, figure))
        else:
            counter.advance(bounded)

    for plans in candidates:
        try_out(tuple(plan if apart else plan.model_copy(update={"centres": None}) for plan in plans))
    best = max(tried, key=lambda one: one.figure)
    quick = tried[0]
    if quick.plans == FOR_FIXED_PLACE[0] and quick.figure >= best.figure - _QUICKER:
        best = quick
    if all(plan.gain == 0 and plan.patch_cells >= _LEAST_WITH_GAIN for plan in best.plans):
        try_out(tuple(plan.with_gain() for plan in best.plans))
        if tried[-1].figure >= best.figure - _PREFERENCE:
            best = tried[-1]
    return best.plans, sorted(tried, key=lambda one: -one.figure)


def _as_in_use(images: Tensor, seed: int) -> Tensor:
    """Change normal images a little, as light and position do between the first images of a product and its use.

    Args:
        images: Images, (n, 3, h, w) float in [0, 1].
        seed: Seed of the draws.

    Returns:
        Images with another brightness, within 10 %, and another position, within a pixel of 256.
    """
    draws = generator_for(seed, "images in use")
    gains = 1 + _CHANGE_OF_LIGHT * (2 * torch.rand(len(images), 1, 1, 1, generator=draws) - 1)
    moved = torch.eye(2, 3).repeat(len(images), 1, 1)
    moved[:, :, 2] = _CHANGE_OF_PLACE * (2 * torch.rand(len(images), 2, generator=draws) - 1)
    grid = F.affine_grid(moved, list(images.shape), align_corners=False)
    shifted = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return (shifted * gains).clamp(0, 1)


def moves(view: RegisteredView, images: Tensor) -> bool:
    """Whether the parts of normal images lie at different places or turns.

    Args:
        view: View that finds the parts.
        images: Normal images, (n, 3, h, w).

    Returns:
        Whether there are several parts, or the corners of the sheet usually differ from their median by more than
        patches at a fixed place tolerate.
    """
    if view.parts > 1:
        return True
    corners = torch.cat([view.boxes(part) for part in torch.split(images, 16)])
    away = (corners - corners.median(0).values).norm(dim=-1).mean((1, 2))
    return float(away.median()) > _TOLERATED


def _with_defects(queries: Tensor, donors: Tensor, view: WholeView | RegisteredView | None, seed: int) -> Tensor:
    """Images with synthetic defects; where parts stand out from a background, on a part."""
    foreground, attempts = torch.ones(len(queries), 1, *queries.shape[2:], dtype=torch.bool), 0
    if isinstance(view, RegisteredView):
        weights = torch.cat([view.weights(part) for part in torch.split(queries, 16)])
        foreground, attempts = F.interpolate(weights[:, None], size=queries.shape[2:]) > 0.5, _ATTEMPTS
    made = []
    for time in range(_DEFECTS):
        seeds = [seed_of(seed, "defects", time, row) for row in range(len(queries))]
        found, masks = paste_defects(queries, donors, seeds, _KINDS)
        for attempt in range(attempts):
            share = (masks & foreground).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp_min(1)
            missed = [row for row in range(len(queries)) if share[row] < 0.5]
            if not missed:
                break
            seeds = [seed_of(seed, "defects", time, row, attempt) for row in missed]
            found[missed], masks[missed] = paste_defects(queries[missed], donors[missed], seeds, _KINDS)
        made.append(found)
    return torch.cat(made)


def _figures(
    members: Sequence[ClosedFormMember], queries: Tensor, defects: Tensor, radius: Radius, counter: Counter
) -> tuple[float, float]:
    """Clean and certified AUROC of the largest score of several members."""

    def scores(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack([member.scores(images) for member in members]).amax(0)

    def bounded(image: Tensor) -> Tensor:
        """Score of an image, its lower and its upper bound, (3,)."""
        found = [member.bounds(image[None], radius.size, radius.norm, exact_sites=_EXACT_SITES) for member in members]
        counter.advance(1)
        return torch.stack([torch.stack([part.score, part.lower, part.upper]) for part in found]).amax(0)

    count = _CERTIFIED * len(queries)
    normal, _, upper = torch.stack([bounded(image) for image in queries]).unbind(1)
    anomalous, lower, _ = torch.stack([bounded(image) for image in defects[:count]]).unbind(1)
    others = [scores(part) for part in torch.split(defects[count:], 8) if len(part)]
    figures = torch.cat([normal, anomalous, *others])
    clean = auroc(np.repeat([0, 1], [len(normal), len(figures) - len(normal)]), figures.numpy())
    return clean, float((lower[:, None] > upper).double().mean())
