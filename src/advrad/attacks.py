"""Attacks: how to find, near a picture, one that a detector misjudges.

An attack climbs an objective, a function from pictures (b, c, h, w) to numbers (b,) that may draw noise of its own at
every call. It knows nothing of detectors, labels or scores: whoever uses it makes an objective of these, such as
``y * A(x)`` with y = +1 for normal pictures and -1 for anomalous ones, and must score what was found anew, on fresh
noise. Rows do not influence each other: every picture has a generator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.threat import Generators, Threat, across

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Task:
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
class Found:
    """What an attack found.

    Attributes:
        images: (b, c, h, w), for every row the picture of the largest objective met on the way.
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
Attack = Callable[[Task], Found]


class _Search:
    """The best picture of every row so far, the given one to begin with, and what finding it took.

    Attributes:
        images: (b, c, h, w) the best pictures.
        values: (b,) their objective.
        better: (b,) bool, which rows the last call improved.
    """

    def __init__(self, task: Task) -> None:
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
        self.images = torch.where(across(self.better), images, self.images)

    def climb(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (b,) of some pictures and its gradient (b, c, h, w)."""
        values, gradient = value_and_gradient(self.objective, images)
        self.offer(images, values, gradients=1)
        return values, gradient

    def ask(self, images: Tensor) -> None:
        """Evaluate some pictures, without gradient."""
        with torch.no_grad():
            self.offer(images, self.objective(images))

    def found(self, last: Tensor) -> Found:
        """The result, of a search that ended at ``last``, (b, c, h, w)."""
        last = torch.where(across(self._done), self.images, last)
        return Found(self.images, self.values, last, self._gradients, self._queries)


def value_and_gradient(objective: Objective, images: Tensor) -> tuple[Tensor, Tensor]:
    """Objective (b,) and its gradient (b, c, h, w); where the gradient is no number it is 0."""
    point = images.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(point)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)


def pgd(task: Task) -> Found:
    """Projected gradient ascent from a random start.

    The step begins at a quarter of the diameter and falls to 0 as a cosine: large steps cross the ball, small ones
    settle.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    images, threat, search = task.images, task.threat, _Search(task)
    now = threat.start(images, task.generators)
    for step in range(task.steps):
        _, gradient = search.climb(now)
        if search.ended:
            return search.found(now)
        length = 0.5 * threat.eps * 0.5 * (1 + math.cos(math.pi * step / task.steps))
        now = threat.project(now + length * threat.steepest(gradient), images)
    search.ask(now)
    return search.found(now)


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


def apgd(task: Task) -> Found:
    """Auto-PGD: momentum, and a step that is halved, row by row, where it has stopped paying.

    Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", algorithm 1.
    """
    images, threat, search = task.images, task.threat, _Search(task)
    before = threat.start(images, task.generators)
    values, gradient = search.climb(before)
    best_gradient = gradient
    length = images.new_full((len(images),), 2 * threat.eps)
    now = threat.project(before + across(length) * threat.steepest(gradient), images)

    marks = checkpoints(task.steps)
    rises = torch.zeros(len(images), dtype=torch.long, device=images.device)
    length_then, best_then, last = length.clone(), search.values.clone(), 0
    for step in range(1, task.steps):
        previous, (values, gradient) = values, search.climb(now)
        if search.ended:
            return search.found(now)
        rises += values > previous
        best_gradient = torch.where(across(search.better), gradient, best_gradient)
        if step in marks:
            seldom = rises < _RISES_WANTED * (step - last)
            stuck = (length == length_then) & (search.values == best_then)
            halve = seldom | stuck
            length_then, best_then, last = length.clone(), search.values.clone(), step
            rises.zero_()
            length = torch.where(halve, length / 2, length)
            # Begin again where it was best, with what was known there.
            now = torch.where(across(halve), search.images, now)
            gradient = torch.where(across(halve), best_gradient, gradient)
            values = torch.where(halve, search.values, values)
        ahead = threat.project(now + across(length) * threat.steepest(gradient), images)
        moved = now + _MOMENTUM * (ahead - now) + (1 - _MOMENTUM) * (now - before)
        before, now = now, threat.project(moved, images)
    search.ask(now)
    return search.found(now)


def square(task: Task) -> Found:
    """Random search over squares; asks for scores only, never for gradients.

    ``linf``: each trial sets a square to plus or minus eps, per channel. ``l2``: each trial moves the budget of one
    window, and what is unused, into another, shaped as a pyramid (of one step per ring; the paper's is steeper).

    Source: Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack via random
    search".
    """
    images, threat, search = task.images, task.threat, _Search(task)
    begin = _stripes if threat.norm == "linf" else _pyramids
    change = torch.stack([begin(image, threat.eps, each) for image, each in zip(images, task.generators, strict=True)])
    search.ask(images)
    search.ask(threat.project(images + change, images))
    for query in range(2, task.steps):
        if search.ended:
            break
        side = _side(query, task.steps, *images.shape[-2:])
        proposal = search.images - images
        propose = _paint if threat.norm == "linf" else _shift
        for row, generator in enumerate(task.generators):
            proposal[row] = propose(proposal[row], side, threat.eps, generator)
        search.ask(threat.project(images + proposal, images))
    return search.found(search.images)


#: Square's share of changed pixels, and at which of 10,000 queries it is halved, as published.
_FIRST_SHARE = 0.8
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def _side(query: int, steps: int, height: int, width: int) -> int:
    """Side of the square of one query, pixels."""
    at = query / steps * 10_000
    share = _FIRST_SHARE / 2 ** sum(at > mark for mark in _HALVINGS)
    return int(min(max(1, round(math.sqrt(share * height * width))), height - 1, width - 1)) or 1


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1.0


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(1, below), (1,), generator=generator))


def _stripes(image: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Vertical stripes one pixel wide, plus or minus eps per channel, for a picture (c, h, w)."""
    channels, _, width = image.shape
    return (eps * _signs((channels, 1, width), generator)).to(image).expand_as(image)


def _paint(change: Tensor, side: int, eps: float, generator: torch.Generator) -> Tensor:
    """Set one square of a row's change, (c, h, w), to plus or minus eps, per channel."""
    channels, height, width = change.shape
    top, left = _integer(height - side + 1, generator), _integer(width - side + 1, generator)
    out = change.clone()
    out[:, top : top + side, left : left + side] = (eps * _signs((channels, 1, 1), generator)).to(change)
    return out


def _pyramid(height: int, width: int) -> Tensor:
    """A bump of length 1, highest in its middle, (height, width)."""
    y = torch.arange(height) - (height - 1) / 2
    x = torch.arange(width) - (width - 1) / 2
    rings = torch.maximum(y.abs()[:, None] / max(height, 1), x.abs()[None, :] / max(width, 1))
    bump = 1 / (1 + torch.floor(rings * max(height, width)))
    unit: Tensor = bump / bump.norm()
    return unit


def _twin(side: int, generator: torch.Generator) -> Tensor:
    """Two pyramids of opposite sign side by side, turned at random, of length 1; (side, side)."""
    if side == 1:
        return torch.ones(1, 1)
    half = side // 2
    bump = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)], dim=0)
    unit: Tensor = bump / bump.norm()
    return unit.T if _integer(2, generator) else unit


def _pyramids(image: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """The whole picture, (c, h, w), tiled with twin pyramids of random sign, of length eps."""
    channels, height, width = image.shape
    side = max(1, min(height, width) // 5)
    change = torch.zeros(channels, height, width)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            signs = _signs((channels, 1, 1), generator)
            change[:, top : top + side, left : left + side] = signs * _twin(side, generator)
    scaled: Tensor = eps * change / change.norm().clamp_min(1e-30)
    return scaled.to(image)


def _shift(change: Tensor, side: int, eps: float, generator: torch.Generator) -> Tensor:
    """Move the budget of one window of a row's change, and what is unused, into another window; (c, h, w)."""
    channels, height, width = change.shape
    windows = []
    for _ in range(2):
        top, left = _integer(height - side + 1, generator), _integer(width - side + 1, generator)
        windows.append((slice(None), slice(top, top + side), slice(left, left + side)))
    into, out_of = windows
    taken = torch.zeros_like(change, dtype=torch.bool)
    taken[into] = True
    taken[out_of] = True
    unused = max(0.0, eps**2 - float(change.square().sum()))
    budget = math.sqrt(float(change[taken].square().sum()) + unused)
    old = change[into]
    bump = _signs((channels, 1, 1), generator).to(change) * _twin(side, generator).to(change)
    fresh = bump / math.sqrt(channels) + old / old.norm().clamp_min(1e-30)
    result = torch.where(taken, torch.zeros_like(change), change)
    result[into] = budget * fresh / fresh.norm().clamp_min(1e-30)
    return result


#: Cells of the low-frequency attack.
GRID_PX = 16


def lowfrequency(task: Task) -> Found:
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
    search = _Search(task)
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
        coarse = coarse * across(
            (threat.eps / threat.distance(0 * images, enlarged(coarse)).clamp_min(1e-30)).clamp_max(1)
        )
    last = threat.project(images + enlarged(coarse), images)
    search.ask(last)
    return search.found(last)


def patch(task: Task) -> Found:
    """Projected gradient ascent inside one square, a quarter of the picture wide, where the gradient is largest."""
    images, threat, search = task.images, task.threat, _Search(task)
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


#: By name. The contract tests run over every row.
ATTACKS: dict[str, Attack] = {
    "pgd": pgd,
    "apgd": apgd,
    "square": square,
    "lowfrequency": lowfrequency,
    "patch": patch,
}
#: Those that ask for scores only.
WITHOUT_GRADIENTS = frozenset({"square"})
#: Those confined to a part of the ball: they are reported apart, for what they say of the world, not as a worst case.
CONFINED = frozenset({"lowfrequency", "patch"})
