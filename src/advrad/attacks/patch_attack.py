"""An attack confined to a square patch of the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar


def patch(given: AttackInput) -> AttackOutput:
    """Projected gradient ascent inside one square, a quarter of the image wide, where the gradient is largest."""
    images, threat, best = given.images, given.threat, BestSoFar(given)
    side = max(1, min(images.shape[-2:]) // 4)
    _, gradient = best.evaluate_with_grad(images)
    strength = gradient.abs().sum(1, keepdim=True)
    inside = torch.zeros_like(images)
    sums = F.avg_pool2d(strength, side, stride=1)
    for row, place in enumerate(sums.flatten(1).argmax(1).tolist()):
        top, left = divmod(place, sums.shape[-1])
        inside[row, :, top : top + side, left : left + side] = 1
    current = threat.project(images + inside * (threat.start(images, given.generators) - images), images)
    for step in range(given.steps - 1):
        _, gradient = best.evaluate_with_grad(current)
        if best.finished:
            return best.output(current)
        step_size = 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / given.steps))
        current = threat.project(current + step_size * threat.steepest(inside * gradient), images)
    best.query(current)
    return best.output(current)
