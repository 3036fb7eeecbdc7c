"""The interface of attacks: find, near an image, one that makes an objective large.

An objective maps images (b, c, h, w) to numbers (b,) and may draw new noise at every call. Attacks know nothing of
detectors, labels or scores; the caller turns these into an objective, such as ``y * score`` with y = +1 for normal
images and -1 for anomalous ones, and scores the result again on noise the attack has not seen. Rows do not influence
each other: every image has its own random generator.
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
    """Input of an attack.

    Attributes:
        objective: Function to maximise, from images (b, c, h, w) to numbers (b,).
        images: Images, (b, c, h, w), in [0, 1].
        threat: Threat model: the allowed perturbations.
        generators: Random generators of the attack, one for each image.
        steps: Budget: number of gradient evaluations, or of queries for an attack without gradients.
        stop_above: Values, (b,), of the objective above which an image needs no further search; None never stops early.
            Only for objectives without noise: otherwise one lucky draw would stop the search.

    Example:
        >>> from advrad.attacks.projected_gradient import pgd
        >>> threat = Threat(norm="linf", eps=0.1)
        >>> images = torch.full((1, 1, 2, 2), 0.5)
        >>> given = AttackInput(lambda x: x.sum((1, 2, 3)), images, threat, [torch.Generator()], steps=10)
        >>> pgd(given).images.mean()
        tensor(0.6000)
    """

    objective: Objective
    images: Tensor
    threat: Threat
    generators: Generators
    steps: int
    stop_above: Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttackOutput:
    """Output of an attack.

    Attributes:
        images: For every image the one with the largest objective found, (b, c, h, w).
        values: Objective of these, (b,), as evaluated in the search; under noise this maximum is biased upwards.
        last: Images at which the search ended, (b, c, h, w); under noise often better than a lucky maximum.
        gradients: Number of gradient evaluations for each image, (b,).
        queries: Number of evaluations for each image, with or without gradient, (b,).

    Example:
        >>> from advrad.attacks.projected_gradient import pgd
        >>> images, threat = torch.full((1, 1, 2, 2), 0.5), Threat(norm="linf", eps=0.1)
        >>> given = AttackInput(lambda x: x.sum((1, 2, 3)), images, threat, [torch.Generator()], steps=10)
        >>> output = pgd(given)
        >>> output.gradients.item(), output.queries.item()
        (10, 11)
    """

    images: Tensor
    values: Tensor
    last: Tensor
    gradients: Tensor
    queries: Tensor


#: The signature of every attack.
Attack = Callable[[AttackInput], AttackOutput]


class BestSoFar:
    """The best image found so far for every row, and the number of evaluations.

    It starts with the given images, without a value.

    Attributes:
        images: Best images, (b, c, h, w).
        values: Objective of these, (b,); minus infinity before the first evaluation.
        improved: Whether the last evaluation improved each row, (b,) bool.
    """

    def __init__(self, given: AttackInput) -> None:
        images = given.images
        self.objective = given.objective
        self.images = images.clone()
        self.values = images.new_full((len(images),), -math.inf)
        self.improved = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        limit = given.stop_above
        self._stop_above = torch.full_like(self.values, math.inf) if limit is None else limit.to(images)
        self._gradients, self._queries = (torch.zeros(len(images), dtype=torch.long) for _ in range(2))

    @property
    def finished(self) -> bool:
        """Whether no row needs a further search."""
        return bool(self._rows_finished.all())

    @property
    def _rows_finished(self) -> Tensor:
        return self.values > self._stop_above

    def update(self, images: Tensor, values: Tensor, gradients: int = 0) -> None:
        """Record one evaluation, and keep the images that are better. NaN is never better.

        A finished row is left as it is, so that its result does not depend on how long the other rows take.

        Args:
            images: Evaluated images, (b, c, h, w).
            values: Objective of these, (b,).
            gradients: Number of gradient evaluations that it took.
        """
        searching = ~self._rows_finished
        self._queries += searching.cpu()
        self._gradients += gradients * searching.cpu()
        self.improved = searching & (values > self.values)
        self.values = torch.where(self.improved, values, self.values)
        self.images = torch.where(expand_batch(self.improved), images, self.images)

    def evaluate_with_grad(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the objective (b,) of images and its gradient (b, c, h, w)."""
        values, gradient = value_and_gradient(self.objective, images)
        self.update(images, values, gradients=1)
        return values, gradient

    def query(self, images: Tensor) -> None:
        """Evaluate the objective of images, (b, c, h, w), without gradient."""
        with torch.no_grad():
            self.update(images, self.objective(images))

    def output(self, last: Tensor) -> AttackOutput:
        """Make the output of a search that ended at the images ``last``, (b, c, h, w)."""
        last = torch.where(expand_batch(self._rows_finished), self.images, last)
        return AttackOutput(self.images, self.values, last, self._gradients, self._queries)


def value_and_gradient(objective: Objective, images: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate an objective (b,) and its gradient (b, c, h, w), in which NaN and infinity are replaced by 0.

    Where an attack has made every image fail, nothing leads back to the images, and the gradient is 0.
    """
    point = images.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(point)
        if not values.requires_grad:
            return values, torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
