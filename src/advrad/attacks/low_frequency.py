"""An attack confined to low spatial frequencies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar
from advrad.attacks.threat import expand_batch

#: Cells of the low-frequency attack.
GRID_PX = 16


def lowfrequency(task: AttackInput) -> AttackOutput:
    """Projected gradient ascent among smooth changes: what a lamp, a lens or a film of dirt could do.

    The change is drawn on a grid of :data:`GRID_PX` pixels and enlarged bilinearly.

    Source: Guo et al. 2019, "Low Frequency Adversarial Perturbation".
    """
    images, threat = task.images, task.threat
    height, width = images.shape[-2:]
    coarse_shape = (max(1, -(-height // GRID_PX)), max(1, -(-width // GRID_PX)))

    def enlarged(coarse: Tensor) -> Tensor:
        fine: Tensor = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        return fine

    # A change enlarged is longer by about the root of the enlargement in area, though no larger anywhere.
    unit = 1.0 if threat.norm == "linf" else 1 / GRID_PX
    grey = images.new_full((len(images), images.shape[1], *coarse_shape), 0.5)
    coarse = unit * (threat.start(grey, task.generators) - grey)
    search = BestSoFar(task)
    for step in range(task.steps):
        point = coarse.detach().requires_grad_()
        with torch.enable_grad():
            candidates = threat.project(images + enlarged(point), images)
            values = task.objective(candidates)
            (gradient,) = torch.autograd.grad(values.sum(), point)
        search.offer(candidates.detach(), values.detach(), gradients=1)
        if search.ended:
            return search.found(candidates.detach())
        length = unit * 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / task.steps))
        coarse = coarse + length * threat.steepest(torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
        coarse = coarse * expand_batch(
            (threat.eps / threat.distance(0 * images, enlarged(coarse)).clamp_min(1e-30)).clamp_max(1)
        )
    last = threat.project(images + enlarged(coarse), images)
    search.ask(last)
    return search.found(last)
