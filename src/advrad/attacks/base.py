"""Attacks: how to find, near an image, one that a detector misjudges.

An attack climbs an objective, a function from images (b, c, h, w) to numbers (b,) that may draw noise of its own at
every call. It knows nothing of detectors, labels or scores: whoever uses it makes an objective of these, such as
``y * A(x)`` with y = +1 for normal images and -1 for anomalous ones, and must score what was found anew, on fresh
noise. Rows do not influence each other: every image has a generator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.attacks.threat import Generators, Threat, expand_batch

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class AttackInput:
    """What an attack is given.

    Attributes:
        objective: to be made large.
        images: (b, c, h, w) in [0, 1].
        threat: what is allowed.
        generators: one for each row, sources of the attack's own randomness.
        steps: the budget: gradient evaluations, or queries of an attack without gradients.
        enough: (b,) a row whose objective is larger than this has nothing left to win, and ends there; None climbs to
            the end. Only to be given for an objective without noise, or luck would end the search.
    """

    objective: Objective
    images: Tensor
    threat: Threat
    generators: Generators
    steps: int
    enough: Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttackOutput:
    """What an attack found.

    Attributes:
        images: (b, c, h, w), for every row the image of the largest objective met on the way.
        values: (b,) that objective, as it was at that call; a noisy objective is flattered by this maximum.
        last: (b, c, h, w), where the attack ended: under a noisy objective often better than what was lucky once.
        gradients: (b,) gradient evaluations that the row took.
        queries: (b,) objective evaluations, those with gradient included.
    """

    images: Tensor
    values: Tensor
    last: Tensor
    gradients: Tensor
    queries: Tensor


#: The form that every attack has.
Attack = Callable[[AttackInput], AttackOutput]


class BestSoFar:
    """The best image of every row so far, the given one to begin with, and what finding it took.

    Attributes:
        images: (b, c, h, w) the best images.
        values: (b,) their objective.
        better: (b,) bool, which rows the last call improved.
    """

    def __init__(self, task: AttackInput) -> None:
        images = task.images
        self.objective = task.objective
        self.images = images.clone()
        self.values = images.new_full((len(images),), -math.inf)
        self.better = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._enough = torch.full_like(self.values, math.inf) if task.enough is None else task.enough.to(images)
        self._gradients, self._queries = (torch.zeros(len(images), dtype=torch.long) for _ in range(2))

    @property
    def ended(self) -> bool:
        """Whether every row has enough."""
        return bool(self._done.all())

    @property
    def _done(self) -> Tensor:
        return self.values > self._enough

    def offer(self, images: Tensor, values: Tensor, gradients: int = 0) -> None:
        """Keep what is better, except of a row that has enough: it must not depend on the others' needs. NaN never is.

        Args:
            images: (b, c, h, w) asked about.
            values: (b,) their objective, one evaluation.
            gradients: that came with it.
        """
        busy = ~self._done
        self._queries += busy.cpu()
        self._gradients += gradients * busy.cpu()
        self.better = busy & (values > self.values)
        self.values = torch.where(self.better, values, self.values)
        self.images = torch.where(expand_batch(self.better), images, self.images)

    def climb(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (b,) of some images and its gradient (b, c, h, w)."""
        values, gradient = value_and_gradient(self.objective, images)
        self.offer(images, values, gradients=1)
        return values, gradient

    def ask(self, images: Tensor) -> None:
        """Evaluate some images, without gradient."""
        with torch.no_grad():
            self.offer(images, self.objective(images))

    def found(self, last: Tensor) -> AttackOutput:
        """The result, of a search that ended at ``last``, (b, c, h, w)."""
        last = torch.where(expand_batch(self._done), self.images, last)
        return AttackOutput(self.images, self.values, last, self._gradients, self._queries)


def value_and_gradient(objective: Objective, images: Tensor) -> tuple[Tensor, Tensor]:
    """Objective (b,) and its gradient (b, c, h, w); where the gradient is no number it is 0."""
    point = images.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(point)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
