"""Auto-PGD: gradient ascent that adapts its own step size."""

from __future__ import annotations

import math

import torch

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar
from advrad.attacks.threat import expand_batch

#: Published constants: alpha, the weight of the new direction, and rho, the share of steps that must increase the
#: objective.
_ALPHA = 0.75
_RHO = 0.75


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps after which APGD decides whether to halve its step size; the first is 0.

    Source: Croce and Hein 2020, section 3.

    Example:
        >>> checkpoints(100)
        [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first: 0.57 of 100 steps is 57, in spite of floating point.
    return sorted({math.ceil(round(share * steps, 9)) for share in shares if share <= 1})


def apgd(given: AttackInput) -> AttackOutput:
    """Auto-PGD: gradient ascent with momentum whose step size is halved, image by image, when it stops making progress.

    Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", algorithm 1.
    """
    images, threat, best = given.images, given.threat, BestSoFar(given)
    previous = threat.start(images, given.generators)
    values, gradient = best.evaluate_with_grad(previous)
    best_gradient = gradient
    step_size = images.new_full((len(images),), 2 * threat.eps)
    current = threat.project(previous + expand_batch(step_size) * threat.steepest(gradient), images)

    marks = checkpoints(given.steps)
    increases = torch.zeros(len(images), dtype=torch.long, device=images.device)
    # Step size and best value at the last checkpoint, and its step.
    mark_step_size, mark_best, mark = step_size.clone(), best.values.clone(), 0
    for step in range(1, given.steps):
        previous_values, (values, gradient) = values, best.evaluate_with_grad(current)
        if best.finished:
            return best.output(current)
        increases += values > previous_values
        best_gradient = torch.where(expand_batch(best.improved), gradient, best_gradient)
        if step in marks:
            few_increases = increases < _RHO * (step - mark)
            no_progress = (step_size == mark_step_size) & (best.values == mark_best)
            halve = few_increases | no_progress
            mark_step_size, mark_best, mark = step_size.clone(), best.values.clone(), step
            increases.zero_()
            step_size = torch.where(halve, step_size / 2, step_size)
            # Restart from the best image, with its gradient and value.
            current = torch.where(expand_batch(halve), best.images, current)
            gradient = torch.where(expand_batch(halve), best_gradient, gradient)
            values = torch.where(halve, best.values, values)
        ahead = threat.project(current + expand_batch(step_size) * threat.steepest(gradient), images)
        moved = current + _ALPHA * (ahead - current) + (1 - _ALPHA) * (current - previous)
        previous, current = current, threat.project(moved, images)
    best.query(current)
    return best.output(current)
