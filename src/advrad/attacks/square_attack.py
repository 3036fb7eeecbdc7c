"""Square attack: score queries only, no gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advrad.attacks.base import AttackInput, AttackOutput, BestSoFar


def square(given: AttackInput) -> AttackOutput:
    """Random search over squares; evaluates scores only, never gradients.

    ``linf``: each trial sets a square to plus or minus eps, per channel. ``l2``: each trial moves the budget of one
    window, and what is unused, into another, in the shape of a pyramid (of one step per ring; the paper's is steeper).

    Source: Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack via random
    search".
    """
    images, threat, best = given.images, given.threat, BestSoFar(given)
    begin = _stripes if threat.norm == "linf" else _pyramids
    propose = _paint if threat.norm == "linf" else _shift
    change = torch.stack([begin(image, threat.eps, each) for image, each in zip(images, given.generators, strict=True)])
    best.query(images)
    best.query(threat.project(images + change, images))
    for query in range(2, given.steps):
        if best.finished:
            break
        side = _side(query, given.steps, *images.shape[-2:])
        proposal = best.images - images
        for row, generator in enumerate(given.generators):
            proposal[row] = propose(proposal[row], side, threat.eps, generator)
        best.query(threat.project(images + proposal, images))
    return best.output(best.images)


#: Published schedule: share of changed pixels, and the queries, of 10,000, at which it is halved.
_FIRST_SHARE = 0.8
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def _side(query: int, steps: int, height: int, width: int) -> int:
    """Side of the square of one query, in pixels."""
    at = query / steps * 10_000
    share = _FIRST_SHARE / 2 ** sum(at > mark for mark in _HALVINGS)
    return int(min(max(1, round(math.sqrt(share * height * width))), height - 1, width - 1)) or 1


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1.0


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(1, below), (1,), generator=generator))


def _stripes(image: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Make vertical stripes one pixel wide, plus or minus eps per channel, for an image (c, h, w)."""
    channels, _, width = image.shape
    return (eps * _signs((channels, 1, width), generator)).to(image).expand_as(image)


def _paint(change: Tensor, side: int, eps: float, generator: torch.Generator) -> Tensor:
    """Set one square of a perturbation, (c, h, w), to plus or minus eps, per channel."""
    channels, height, width = change.shape
    top, left = _integer(height - side + 1, generator), _integer(width - side + 1, generator)
    out = change.clone()
    out[:, top : top + side, left : left + side] = (eps * _signs((channels, 1, 1), generator)).to(change)
    return out


def _pyramid(height: int, width: int) -> Tensor:
    """Make a bump of l2 norm 1, highest in its middle, (height, width)."""
    y = torch.arange(height) - (height - 1) / 2
    x = torch.arange(width) - (width - 1) / 2
    rings = torch.maximum(y.abs()[:, None] / max(height, 1), x.abs()[None, :] / max(width, 1))
    bump = 1 / (1 + torch.floor(rings * max(height, width)))
    unit: Tensor = bump / bump.norm()
    return unit


def _twin(side: int, generator: torch.Generator) -> Tensor:
    """Make two pyramids of opposite sign side by side, turned at random, of l2 norm 1; (side, side)."""
    if side == 1:
        return torch.ones(1, 1)
    half = side // 2
    bump = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)], dim=0)
    unit: Tensor = bump / bump.norm()
    return unit.T if _integer(2, generator) else unit


def _pyramids(image: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Tile the whole image, (c, h, w), with twin pyramids of random sign, of l2 norm eps."""
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
    """Move the budget of one window of a perturbation, (c, h, w), and what is unused, into another window."""
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
