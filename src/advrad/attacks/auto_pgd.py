"""Auto-PGD: gradient ascent that adapts its own step size."""

from __future__ import annotations

import math

import torch

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar
from advrad.attacks.threat import expand_batch

#: APGD's constants, as published.
_MOMENTUM = 0.75
_RISES_WANTED = 0.75


def checkpoints(steps: int) -> list[int]:
    """After how many steps APGD asks whether its step is still any good; the first is 0.

    Source: Croce and Hein 2020, section 3.
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first: 0.57 of 100 steps are 57, not a hair more.
    return sorted({math.ceil(round(share * steps, 9)) for share in shares if share <= 1})


def apgd(task: AttackInput) -> AttackOutput:
    """Auto-PGD: momentum, and a step that is halved, row by row, where it has stopped paying.

    Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", algorithm 1.
    """
    images, threat, search = task.images, task.threat, BestSoFar(task)
    before = threat.start(images, task.generators)
    values, gradient = search.climb(before)
    best_gradient = gradient
    length = images.new_full((len(images),), 2 * threat.eps)
    now = threat.project(before + expand_batch(length) * threat.steepest(gradient), images)

    marks = checkpoints(task.steps)
    rises = torch.zeros(len(images), dtype=torch.long, device=images.device)
    length_then, best_then, last = length.clone(), search.values.clone(), 0
    for step in range(1, task.steps):
        previous, (values, gradient) = values, search.climb(now)
        if search.ended:
            return search.found(now)
        rises += values > previous
        best_gradient = torch.where(expand_batch(search.better), gradient, best_gradient)
        if step in marks:
            seldom = rises < _RISES_WANTED * (step - last)
            stuck = (length == length_then) & (search.values == best_then)
            halve = seldom | stuck
            length_then, best_then, last = length.clone(), search.values.clone(), step
            rises.zero_()
            length = torch.where(halve, length / 2, length)
            # Begin again where it was best, with what was known there.
            now = torch.where(expand_batch(halve), search.images, now)
            gradient = torch.where(expand_batch(halve), best_gradient, gradient)
            values = torch.where(halve, search.values, values)
        ahead = threat.project(now + expand_batch(length) * threat.steepest(gradient), images)
        moved = now + _MOMENTUM * (ahead - now) + (1 - _MOMENTUM) * (now - before)
        before, now = now, threat.project(moved, images)
    search.ask(now)
    return search.found(now)
