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

from advrad.data.synthetic import DEFECTS, paste_defects
from advrad.detectors.closed_form_member import ClosedFormMember, MemberBounds
from advrad.detectors.registration import RegisteredView
from advrad.detectors.views import WholeView
from advrad.metrics import auroc
from advrad.training.closed_form_members import Normals, fit_member, make_view
from advrad.training.closed_form_plan import FIXED, FOR_MOVING_PARTS, FOR_SURFACES, REGISTERED, MemberPlan
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for, seed_of

#: Fewest images to learn from with which plans are compared.
LEAST_IMAGES = 10
#: Images that become the memory while plans are compared, and images that are scored, at most.
_MEMORY, _SCORED = 24, 12
#: Distance, as a share of the image, up to which patches at a fixed place find each other.
_TOLERATED = 8 / 256
#: Draws of a synthetic defect that lies on a part, at most.
_ATTEMPTS = 12
#: Synthetic defects for each scored image, and how many of these are certified.
_DEFECTS, _CERTIFIED = 3, 1
#: Radius of the certified part of the figure.
_RADIUS = 2 / 255
#: Sites with exact bounds while plans are compared.
_EXACT_SITES = 8
#: Patches in the memory of plans without a window while plans are compared.
_PATCHES = 6_000
#: A plan with gain is preferred if its figure is at most this much lower: changes of light are rare among normal
#: images and frequent in use.
_PREFERENCE = 0.01
#: Kinds of synthetic defects. Uneven light is none: whether a plan tolerates it is not a fault.
_KINDS = tuple(name for name in DEFECTS if name != "shade")


@dataclass(frozen=True)
class TriedPlans:
    """Plans of the members of a detector, with their figures on images to learn from.

    Attributes:
        plans: Plans.
        clean: AUROC of normal images against the same images with synthetic defects.
        certified: Certified AUROC of these, linf 2/255.
    """

    plans: tuple[MemberPlan, ...]
    clean: float
    certified: float

    @property
    def figure(self) -> float:
        """What counts: both, the clean one twice, because it is measured on more images."""
        return (2 * self.clean + self.certified) / 3

    @property
    def name(self) -> str:
        """Names of the plans."""
        return name_of(self.plans)


def name_of(plans: Sequence[MemberPlan]) -> str:
    """Names of plans, for records and messages."""
    return " and ".join(plan.name for plan in plans)


def choose_plans(
    normals: Normals, progress: ProgressReporter = SILENT
) -> tuple[tuple[MemberPlan, ...], list[TriedPlans]]:
    """Choose the plans for a product.

    A product that stands out from its background and always lies at the same place gets the plans for that. For others,
    the plans with the best clean and certified AUROC are chosen.

    Args:
        normals: Normal images; only those to learn from are used.
        progress: Receives the number of compared plans.

    Returns:
        The chosen plans, and all that were compared, best first; none if nothing had to be compared, or
        with fewer than :data:`LEAST_IMAGES` images.
    """
    if len(normals.learn) < LEAST_IMAGES:
        return FIXED, []
    order = torch.randperm(len(normals.learn), generator=generator_for(normals.seed, "plans")).tolist()
    rows = [normals.learn[place] for place in order]
    scored = min(_SCORED, len(rows) // 3)
    memory = tuple(sorted(rows[scored : scored + _MEMORY]))
    trial = replace(normals, learn=memory, memory=memory)
    queries = normals.batch(torch.tensor(rows[:scored]))
    donors = normals.batch(torch.tensor((memory * scored)[:scored]))
    view = make_view(REGISTERED, trial)
    if isinstance(view, RegisteredView) and not moves(view, normals.batch(torch.tensor(memory))):
        return FIXED, []
    defects = _with_defects(queries, donors, view, normals.seed)
    candidates = FOR_SURFACES if view is None else FOR_MOVING_PARTS
    tried: list[TriedPlans] = []

    def try_out(plans: tuple[MemberPlan, ...]) -> None:
        small = [plan.model_copy(update={"patches": min(plan.patches, _PATCHES)}) for plan in plans]
        members = [member for plan in small if (member := fit_member(plan, trial)) is not None]
        if members:
            tried.append(TriedPlans(plans, *_figures(members, queries, defects)))
        progress.update(len(tried), len(candidates) + 1)

    for plans in candidates:
        try_out(plans)
    best = max(tried, key=lambda one: one.figure)
    try_out(tuple(plan.with_gain() for plan in best.plans))
    if tried[-1].figure >= best.figure - _PREFERENCE:
        best = tried[-1]
    return best.plans, sorted(tried, key=lambda one: -one.figure)


def moves(view: RegisteredView, images: Tensor) -> bool:
    """Whether the parts of normal images lie at different places or turns.

    Args:
        view: View that finds the parts.
        images: Normal images, (n, 3, h, w).

    Returns:
        Whether the corners of the sheets usually differ from their median by more than patches at a fixed place
        tolerate.
    """
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


def _figures(members: Sequence[ClosedFormMember], queries: Tensor, defects: Tensor) -> tuple[float, float]:
    """Clean and certified AUROC of the largest score of several members."""

    def scores(images: Tensor) -> Sequence[float]:
        with torch.no_grad():
            found = [torch.stack([member.scores(part) for member in members]) for part in torch.split(images, 8)]
        return torch.cat(found, 1).amax(0).tolist()

    def bounds(image: Tensor) -> list[MemberBounds]:
        return [member.bounds(image[None], _RADIUS, "linf", exact_sites=_EXACT_SITES) for member in members]

    normal, anomalous = scores(queries), scores(defects)
    clean = auroc(np.repeat([0, 1], [len(normal), len(anomalous)]), np.array([*normal, *anomalous]))
    upper = [max(float(part.upper) for part in bounds(image)) for image in queries]
    lower = [max(float(part.lower) for part in bounds(image)) for image in defects[: _CERTIFIED * len(queries)]]
    return clean, float((np.array(lower)[:, None] > np.array(upper)).mean())
