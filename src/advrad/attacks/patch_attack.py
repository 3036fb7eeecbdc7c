"""An attack confined to a square patch of the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar


def patch(task: AttackInput) -> AttackOutput:
    """Projected gradient ascent inside one square, a quarter of the image wide, where the gradient is largest."""
    images, threat, search = task.images, task.threat, BestSoFar(task)
    side = max(1, min(images.shape[-2:]) // 4)
    _, gradient = search.climb(images)
    strength = gradient.abs().sum(1, keepdim=True)
    inside = torch.zeros_like(images)
    sums = F.avg_pool2d(strength, side, stride=1)
    for row, place in enumerate(sums.flatten(1).argmax(1).tolist()):
        top, left = divmod(place, sums.shape[-1])
        inside[row, :, top : top + side, left : left + side] = 1
    now = threat.project(images + inside * (threat.start(images, task.generators) - images), images)
    for step in range(task.steps - 1):
        _, gradient = search.climb(now)
        if search.ended:
            return search.found(now)
        length = 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / task.steps))
        now = threat.project(now + length * threat.steepest(inside * gradient), images)
    search.ask(now)
    return search.found(now)
