"""The promise of the thresholds: false alarms, plain and under attack, over more than a thousand repetitions at once.

Patches of a single cell with a window of zero are compared with the same place only. So every place of a sheet is a
repetition of its own: normal values, memory, threshold, and a new normal value that is attacked.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_intervals import PatchIntervals
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.conformal import conformal_threshold

SIDE = 36
REPETITIONS = SIDE * SIDE
N, RATE, EPS = 24, 0.08, 4 / 255
#: Three standard errors of a share of RATE.
MARGIN = 3 * (RATE * (1 - RATE) / REPETITIONS) ** 0.5


def normals(count: int, seed: int) -> Tensor:
    """Exchangeable normal images: grey, with a common spread that differs from place to place."""
    draws = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.02, 0.08, SIDE)
    return (0.5 + spread * torch.randn(count, 3, SIDE, SIDE, generator=draws)).clamp(0, 1)


def worst_distances(memory: PatchMemory, images: Tensor) -> Tensor:
    """The largest distance over perturbations: all corners, edges and faces of the box around each value."""
    found = []
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        found.append(memory.nearest(images + EPS * torch.tensor(signs)[:, None, None]))
    return torch.stack(found).amax(0)


def exact_bounds(memory: PatchMemory, image: Tensor, exclude: Tensor | None = None) -> PatchIntervals:
    """Bounds that are exact at every place."""
    found = PatchIntervals(memory, image, EPS, exclude)
    found.refine(torch.arange(REPETITIONS))
    return found


def thresholds(values: Tensor) -> Tensor:
    """Conformal thresholds of each place; values (n, 1, side, side)."""
    columns = values.flatten(1).T.tolist()
    return torch.tensor([conformal_threshold(column, RATE) for column in columns]).reshape(values.shape[1:])


@dataclass
class World:
    """One fit for each place.

    Attributes:
        memory: All normal values.
        plain: Leave-one-out distances of the normal values, (n, 1, side, side).
        upper: Their upper bounds under attack.
        inside: Distances to the memory with the values themselves in it.
        new: Distances of new normal values, (1, 1, side, side).
        attacked: The largest that attacks make of them.
    """

    memory: PatchMemory
    plain: Tensor
    upper: Tensor
    inside: Tensor
    new: Tensor
    attacked: Tensor


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["no gain", "gain"])
def world(request: pytest.FixtureRequest) -> World:
    config = MemoryConfig(
        height_cells=SIDE, width_cells=SIDE, patch_cells=1, window_cells=(0, 0), gain=float(request.param)
    )
    images, groups = normals(N, 0), torch.arange(N)
    memory = PatchMemory(config, PatchMemory.quantised(images), groups)
    held = [exact_bounds(memory, images[i : i + 1], groups[i : i + 1]) for i in range(N)]
    upper, plain = (torch.cat([getattr(one, side) for one in held]) for side in ("upper", "nearest"))
    new = normals(1, 1)
    return World(memory, plain, upper, memory.nearest(images), memory.nearest(new), worst_distances(memory, new))


def alarms(scores: Tensor, limits: Tensor) -> float:
    return float((scores[0] > limits).float().mean())


def test_a_plain_threshold_keeps_its_false_alarm_rate(world: World) -> None:
    found = alarms(world.new, thresholds(world.plain))
    assert 0.3 * RATE < found <= RATE + MARGIN, found


def test_a_threshold_from_images_in_the_memory_would_not(world: World) -> None:
    assert alarms(world.new, thresholds(world.inside)) > 5 * RATE


def test_a_robust_threshold_keeps_the_rate_under_the_worst_attack(world: World) -> None:
    found = alarms(world.attacked, thresholds(world.upper))
    assert found <= RATE + MARGIN, found
    assert (world.upper >= world.plain).all() and alarms(world.attacked, thresholds(world.upper)) > 0.1 * RATE


def test_a_plain_threshold_would_not_keep_it_under_attack(world: World) -> None:
    assert alarms(world.attacked, thresholds(world.plain)) > RATE + 3 * MARGIN


def test_a_robust_threshold_for_half_the_radius_would_not(world: World) -> None:
    """The attack is strong enough to tell: a threshold that allows for half of it fails."""
    halfway = (world.upper + world.plain) / 2
    assert alarms(world.attacked, thresholds(halfway)) > RATE + MARGIN


def test_a_proven_alarm_keeps_the_rate_with_the_plain_threshold(world: World) -> None:
    """Its lower bound is above the threshold, so the score of the unperturbed image is, too."""
    limits, most = thresholds(world.plain), 0.0
    for sign in (-1.0, 1.0):
        lower = exact_bounds(world.memory, normals(1, 1) + sign * EPS).lower
        most = max(most, alarms(lower, limits))
    assert most <= RATE + MARGIN
