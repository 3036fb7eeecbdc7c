"""Projected gradient ascent (PGD)."""

from __future__ import annotations

import math

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar


def pgd(given: AttackInput) -> AttackOutput:
    """Projected gradient ascent from a random start.

    The step size starts at a quarter of the ball's diameter and falls to 0 as a cosine: large steps cross the ball,
    small ones converge.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    images, threat, best = given.images, given.threat, BestSoFar(given)
    current = threat.start(images, given.generators)
    for step in range(given.steps):
        _, gradient = best.evaluate_with_grad(current)
        if best.finished:
            return best.output(current)
        step_size = 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / given.steps))
        current = threat.project(current + step_size * threat.steepest(gradient), images)
    best.query(current)
    return best.output(current)
