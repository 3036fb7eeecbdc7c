"""An attack confined to low spatial frequencies."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar, value_and_gradient
from advrad.attacks.threat import expand_batch

#: Side of the cells in which the perturbation is searched, in pixels.
GRID_PX = 16


def lowfrequency(given: AttackInput) -> AttackOutput:
    """Projected gradient ascent among smooth perturbations, such as uneven light, a dirty lens or a film of oil cause.

    The perturbation is searched on a grid of :data:`GRID_PX` pixels and enlarged bilinearly.

    Source: Guo et al. 2019, "Low Frequency Adversarial Perturbation".
    """
    images, threat, best = given.images, given.threat, BestSoFar(given)
    height, width = images.shape[-2:]
    coarse_shape = (max(1, -(-height // GRID_PX)), max(1, -(-width // GRID_PX)))

    def enlarged(coarse: Tensor) -> Tensor:
        fine: Tensor = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        return fine

    def moved(coarse: Tensor) -> Tensor:
        return threat.project(images + enlarged(coarse), images)

    # Enlarging raises the l2 norm by about the root of the ratio of the areas, and leaves the linf norm unchanged.
    unit = 1.0 if threat.norm == "linf" else 1 / GRID_PX
    grey = images.new_full((len(images), images.shape[1], *coarse_shape), 0.5)
    coarse = unit * (threat.start(grey, given.generators) - grey)
    for step in range(given.steps):
        values, gradient = value_and_gradient(lambda cells: given.objective(moved(cells)), coarse)
        candidates = moved(coarse)
        best.update(candidates, values, gradients=1)
        if best.finished:
            return best.output(candidates)
        step_size = unit * 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / given.steps))
        coarse = coarse + step_size * threat.steepest(gradient)
        norm = threat.distance(0 * images, enlarged(coarse)).clamp_min(1e-30)
        coarse = coarse * expand_batch((threat.eps / norm).clamp_max(1))
    last = moved(coarse)
    best.query(last)
    return best.output(last)
