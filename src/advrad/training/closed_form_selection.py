"""Choose the plan of a closed-form detector for a product, from its normal images and synthetic defects.

Only images to learn from are used: some become the memory, others are scored as they are and with synthetic defects.
Test images and the images that set the threshold are never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from advrad.data.synthetic import DEFECTS, paste_defects
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.metrics import auroc
from advrad.training.closed_form_members import Normals, fit_member
from advrad.training.closed_form_plan import CANDIDATES, COARSE, MemberPlan
from advrad.utils.progress import SILENT, ProgressReporter

#: Fewest images to learn from with which plans are compared.
LEAST_IMAGES = 10
#: Images that become the memory while plans are compared, and images that are scored, at most.
_MEMORY, _SCORED = 24, 12
#: Synthetic defects for each scored image, and how many of these are certified.
_DEFECTS, _CERTIFIED = 3, 1
#: Radius of the certified part of the figure.
_RADIUS = 2 / 255
#: Patches in the memory of plans without a window while plans are compared.
_PATCHES = 6_000
#: A plan with gain is preferred if its figure is at most this much lower: changes of light are rare among normal
#: images and frequent in use.
_PREFERENCE = 0.01
#: Kinds of synthetic defects. Uneven light is none: whether a plan tolerates it is not a fault.
_KINDS = tuple(name for name in DEFECTS if name != "shade")


@dataclass(frozen=True)
class TriedPlan:
    """A plan with its figures on images to learn from.

    Attributes:
        plan: Plan.
        clean: AUROC of normal images against the same images with synthetic defects.
        certified: Certified AUROC of these, linf 2/255.
    """

    plan: MemberPlan
    clean: float
    certified: float

    @property
    def figure(self) -> float:
        """What counts: the mean of both."""
        return (self.clean + self.certified) / 2


def choose_plan(normals: Normals, progress: ProgressReporter = SILENT) -> tuple[MemberPlan, list[TriedPlan]]:
    """Choose the plan with the best mean of clean and certified AUROC.

    Args:
        normals: Normal images; only those to learn from are used.
        progress: Receives the number of compared plans.

    Returns:
        The chosen plan, and all plans that were compared, best first; none with fewer than :data:`LEAST_IMAGES`
        images.
    """
    if len(normals.learn) < LEAST_IMAGES:
        return COARSE.with_gain(), []
    order = torch.randperm(len(normals.learn), generator=torch.Generator().manual_seed(normals.seed)).tolist()
    rows = [normals.learn[place] for place in order]
    scored = min(_SCORED, len(rows) // 3)
    memory = tuple(sorted(rows[scored : scored + _MEMORY]))
    trial = replace(normals, learn=memory, memory=memory)
    queries = normals.batch(torch.tensor(rows[:scored]))
    donors = normals.batch(torch.tensor((memory * scored)[:scored]))
    defects = torch.cat(
        [
            paste_defects(
                queries, donors, seeds=[normals.seed + 1000 * time + row for row in range(scored)], kinds=_KINDS
            )[0]
            for time in range(_DEFECTS)
        ]
    )
    tried: list[TriedPlan] = []

    def trial_of(plan: MemberPlan) -> TriedPlan | None:
        small = plan.model_copy(update={"patches": min(plan.patches, _PATCHES)})
        member = fit_member(small, trial)
        return None if member is None else TriedPlan(plan, *_figures(member, queries, defects))

    for place, plan in enumerate(CANDIDATES):
        found = trial_of(plan)
        tried += [] if found is None else [found]
        progress.update(place + 1, len(CANDIDATES) + 1)
    best = max(tried, key=lambda one: one.figure)
    tolerant = trial_of(best.plan.with_gain())
    progress.update(len(CANDIDATES) + 1, len(CANDIDATES) + 1)
    if tolerant is not None:
        tried.append(tolerant)
        best = tolerant if tolerant.figure >= best.figure - _PREFERENCE else best
    tried.sort(key=lambda one: -one.figure)
    return best.plan, tried


def _figures(member: ClosedFormMember, queries: Tensor, defects: Tensor) -> tuple[float, float]:
    """Clean and certified AUROC."""

    def scores(images: Tensor) -> Sequence[float]:
        with torch.no_grad():
            return torch.cat([member.scores(part) for part in torch.split(images, 8)]).tolist()

    normal, anomalous = scores(queries), scores(defects)
    clean = auroc(np.repeat([0, 1], [len(normal), len(anomalous)]), np.array([*normal, *anomalous]))
    upper = [float(member.bounds(image[None], _RADIUS, "linf").upper) for image in queries]
    chosen = defects[: _CERTIFIED * len(queries)]
    lower = [float(member.bounds(image[None], _RADIUS, "linf").lower) for image in chosen]
    return clean, float((np.array(lower)[:, None] > np.array(upper)).mean())
