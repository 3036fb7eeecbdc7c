"""Projected gradient ascent (PGD)."""

from __future__ import annotations

import math

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar


def pgd(task: AttackInput) -> AttackOutput:
    """Projected gradient ascent from a random start.

    The step begins at a quarter of the diameter and falls to 0 as a cosine: large steps cross the ball, small ones
    settle.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    images, threat, search = task.images, task.threat, BestSoFar(task)
    now = threat.start(images, task.generators)
    for step in range(task.steps):
        _, gradient = search.climb(now)
        if search.ended:
            return search.found(now)
        length = 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / task.steps))
        now = threat.project(now + length * threat.steepest(gradient), images)
    search.ask(now)
    return search.found(now)
