"""Exact worst cases of tiny detectors, by linear programming and by enumeration, lie within the bounds."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tiny_closed_forms import detector_of, draws, member_of, memory_like
from torch import Tensor

from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.scoring import pooled_count
from advrad.detectors.views import WholeConfig, WholeView

Floats = npt.NDArray[np.float64]
Range = tuple[float | None, float | None]
#: Covers the rounding of a score in float32 after its distances; computed scores are compared with bounds without it.
ROUNDING = 1e-6

# --- a whole detector, from the pixels to the score ------------------------------------------------------------------
# Four cells of four pixels, patches of one grey cell: the score is piecewise linear in the pixels of an image of any
# size, so its extremes over all perturbations are those of a few linear programs.

CELLS = MemoryConfig(height_cells=2, width_cells=2, channels=1, patch_cells=1, window_cells=(0, 0))


def tiny(pooling: float, seed: int) -> ClosedFormDetector:
    view = WholeView(WholeConfig(size_px=4, cell_px=2, channels=1))
    generator = draws(seed)
    sheets = memory_like(CELLS, torch.full((1, 2, 2), 0.5), 2, 0.1, generator)
    return detector_of(view, CELLS, sheets, pooling=pooling, generator=generator)


def cell_matrix(detector: ClosedFormDetector, shape: tuple[int, int]) -> Floats:
    """The matrix from pixels to cells, (4, 3 h w)."""
    view, zero = member_of(detector).view, torch.zeros(1, 3, *shape, dtype=torch.float64)
    jacobian: Tensor = torch.autograd.functional.jacobian(lambda image: view.sheets(image).flatten(), zero)
    return jacobian.flatten(1).numpy()


def optimum(cost: Floats, rows: list[Floats], limits: list[float], box: list[Range]) -> tuple[float, Floats]:
    """The least value of a linear program and where it is; infinite if nothing satisfies it."""
    found = linprog(cost, A_ub=np.stack(rows), b_ub=limits, bounds=box, method="highs")
    return (float(found.fun), found.x) if found.status == 0 else (np.inf, np.zeros_like(cost))


class Exact:
    """The exact extremes of the score of one image over all perturbations within a radius.

    Args:
        detector: Detector as :func:`tiny` makes it.
        image: Image, (1, 3, h, w) float64.
        eps: Radius in linf.
    """

    def __init__(self, detector: ClosedFormDetector, image: Tensor, eps: float) -> None:
        member = member_of(detector)
        self.config = member.config
        self.matrix = cell_matrix(detector, (image.shape[2], image.shape[3]))
        self.cells = self.matrix @ image.flatten().numpy()
        self.memory = member.memory.sheets.double().flatten(1).numpy() / 255
        self.mean, spread = (values.double().flatten().numpy() for values in (member.mean, member.spread))
        self.unit = spread + self.config.tolerance
        self.count = pooled_count(4, self.config.pooling)
        self.image = image
        self.box: list[Range] = [(-eps, eps)] * self.matrix.shape[1]

    def _found(self, pooled: float, change: Floats) -> tuple[float, Tensor]:
        """A score, and the image that has it."""
        image = self.image + torch.from_numpy(change).view_as(self.image)
        return (pooled - self.config.location) / self.config.scale, image.float()

    def least(self) -> tuple[float, Tensor]:
        """The least score and its image: the least over all choices of the nearest memory patches.

        The mean of the k largest of values f is the least ``q + sum of max(f - q, 0) / k`` over q.
        """
        pixels = self.matrix.shape[1]
        best, change = np.inf, np.zeros(pixels)
        cost = np.concatenate([np.zeros(pixels), [1.0], np.full(4, 1 / self.count)])  # perturbation, q, excesses
        for nearest in itertools.product(range(len(self.memory)), repeat=4):
            rows, limits = [], []
            for site, choice in enumerate(nearest):
                away = self.cells[site] - self.memory[choice, site]
                for sign in (-1.0, 1.0):  # sign * distance <= |distance| = mean + unit * f, f <= q + excess
                    row = np.zeros(pixels + 5)
                    row[:pixels] = sign * self.matrix[site]
                    row[pixels] = row[pixels + 1 + site] = -self.unit[site]
                    rows.append(row)
                    limits.append(self.mean[site] - sign * away)
            free: list[Range] = [(None, None), *[(0.0, None)] * 4]
            value, point = optimum(cost, rows, limits, self.box + free)
            if value < best:
                best, change = value, point[:pixels]
        return self._found(best, change)

    def largest(self) -> tuple[float, Tensor]:
        """The largest score and its image: for each choice of sites, of their nearest memory patches, and of sides."""
        best, change = -np.inf, np.zeros(self.matrix.shape[1])
        options = list(itertools.product(range(len(self.memory)), (-1.0, 1.0)))
        for sites in itertools.combinations(range(4), self.count):
            for choices in itertools.product(options, repeat=self.count):
                cost, constant = np.zeros(self.matrix.shape[1]), 0.0
                rows, limits = [np.zeros_like(cost)], [0.0]
                for site, (choice, sign) in zip(sites, choices, strict=True):
                    own = self.memory[choice, site]
                    weight = 1 / (self.count * self.unit[site])
                    cost -= weight * sign * self.matrix[site]
                    constant += weight * (sign * (self.cells[site] - own) - self.mean[site])
                    for other in self.memory[:, site]:  # no other memory patch is nearer
                        side = np.sign(other - own)
                        rows.append(side * self.matrix[site])
                        limits.append(side * ((own + other) / 2 - self.cells[site]))
                value, point = optimum(cost, rows, limits, self.box)
                if constant - value > best:
                    best, change = constant - value, point
        return self._found(best, change)


@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    pooling=st.sampled_from([0.0, 0.5, 1.0]),
    eps=st.sampled_from([2 / 255, 0.03, 0.1]),
    seed=st.integers(0, 1000),
)
def test_the_worst_case_by_linear_programming_is_inside(
    height: int, width: int, pooling: float, eps: float, seed: int
) -> None:
    detector = tiny(pooling, seed)
    noise = 0.15 * torch.randn(1, 3, height, width, generator=draws(seed + 1)).double()
    image = (0.5 + noise).clamp(0, 1)
    exact, bounds = Exact(detector, image, eps), detector.score_bounds(image.float(), eps, "linf")
    (least, lowest), (largest, highest) = exact.least(), exact.largest()
    assert float(bounds.lower) <= least + ROUNDING and largest <= float(bounds.upper) + ROUNDING
    with torch.no_grad():
        found = detector.scores(torch.cat([lowest, highest]))
    assert found.tolist() == pytest.approx([least, largest], abs=1e-4), "these images are the worst ones"
    assert bool((bounds.lower <= found).all()) and bool((found <= bounds.upper).all())


@pytest.mark.parametrize(("shape", "pooling"), [((4, 4), 0.0), ((2, 5), 0.0), ((7, 3), 0.5), ((4, 4), 1.0)])
def test_the_linear_programs_find_the_ends_of_the_bounds(shape: tuple[int, int], pooling: float) -> None:
    """Far from the memory, with one memory patch in reach, they are attained; half of the radius is too little."""
    detector, eps = tiny(pooling, 0), 0.03
    image = torch.full((1, 3, *shape), 0.9, dtype=torch.float64)
    exact, bounds = Exact(detector, image, eps), detector.score_bounds(image.float(), eps, "linf")
    (least, _), (largest, _) = exact.least(), exact.largest()
    assert least == pytest.approx(float(bounds.lower), abs=0.01)
    assert largest == pytest.approx(float(bounds.upper), abs=0.01)
    half = detector.score_bounds(image.float(), eps / 2, "linf")
    assert least < float(half.lower) and float(half.upper) < largest


# --- patches ---------------------------------------------------------------------------------------------------------


def signs_of(count: int, values: tuple[float, ...]) -> Tensor:
    return torch.tensor(list(itertools.product(values, repeat=count)), dtype=torch.float32)


@pytest.mark.parametrize("taper", ["flat", "gaussian"])
@pytest.mark.parametrize("gain", [0.0, 0.15])
@pytest.mark.parametrize("exact_sites", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_no_corner_edge_or_face_of_the_box_leaves_the_bounds(
    count: int, exact_sites: int, gain: float, taper: str
) -> None:
    config = MemoryConfig.parse(
        {"height_cells": 3, "width_cells": 3, "channels": 1, "patch_cells": 3, "window_cells": (0, 0)}
        | {"taper": taper, "gain": gain}
    )
    generator, eps = draws(count), 0.06
    sheet, view = torch.rand(1, 3, 3, generator=generator), WholeView(WholeConfig(size_px=3, cell_px=1, channels=1))
    sheets = memory_like(config, sheet, count, 0.1, generator)
    member = member_of(detector_of(view, config, sheets, standardised=False, generator=generator))
    image = (sheet + 0.1 * torch.randn(1, 1, 3, 3, generator=generator)).expand(1, 3, 3, 3)
    bounds = member.bounds(image, eps, "linf", exact_sites=exact_sites)
    with torch.no_grad():
        found = member.scores(image + eps * signs_of(9, (-1.0, 0.0, 1.0)).view(-1, 1, 3, 3))
    assert float(bounds.lower) <= float(found.min()) and float(found.max()) <= float(bounds.upper)
    if exact_sites and count == 1:  # a convex function is largest at a corner
        assert float(found.max()) == pytest.approx(float(bounds.upper), abs=1e-3 if gain == 0 else 5e-3)
    half = member.bounds(image, eps / 2, "linf")
    assert float(found.max()) > float(half.upper) and float(found.min()) < float(half.lower)


def farthest_from_all(point: Floats, memory: Floats, eps: float) -> float:
    """The largest distance to the nearest of several points, over a box in three dimensions around a point.

    Among the points whose nearest memory point is the same, the distance is convex: it is largest at a corner, where
    three of the planes meet that bound them.
    """
    best = 0.0
    for own in memory:
        others = memory[(memory != own).any(1)]
        normals = np.concatenate([np.eye(3), -np.eye(3), 2 * (others - own)])
        limits = np.concatenate([point + eps, eps - point, (others**2).sum(1) - (own**2).sum()])
        for planes in map(list, itertools.combinations(range(len(normals)), 3)):
            if abs(np.linalg.det(normals[planes])) > 1e-9:
                corner = np.linalg.solve(normals[planes], limits[planes])
                if (normals @ corner <= limits + 1e-12).all():
                    best = max(best, float(np.linalg.norm(corner - own)))
    return best


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 5), eps=st.sampled_from([2 / 255, 0.05, 0.2]), seed=st.integers(0, 1000))
def test_the_worst_case_of_a_colour_by_enumeration_is_inside(count: int, eps: float, seed: int) -> None:
    config, generator = MemoryConfig(height_cells=1, width_cells=1, patch_cells=1, window_cells=(0, 0)), draws(seed)
    sheets = memory_like(config, torch.full((3, 1, 1), 0.5), count, 0.1, generator)
    view = WholeView(WholeConfig(size_px=1, cell_px=1))
    detector = detector_of(view, config, sheets, standardised=False, generator=generator)
    image = torch.rand(1, 3, 1, 1, generator=generator)
    bounds = detector.score_bounds(image, eps, "linf")
    point, points = image.double().flatten().numpy(), sheets.double().flatten(1).numpy() / 255
    largest = farthest_from_all(point, points, eps) / np.sqrt(3)
    least = np.sqrt(((np.clip(points, point - eps, point + eps) - points) ** 2).mean(1).min())
    assert float(bounds.lower) <= least and largest <= float(bounds.upper)
    assert least == pytest.approx(float(bounds.lower), abs=1e-3), "the lower end is attained"
    if count == 1:
        assert largest == pytest.approx(float(bounds.upper), abs=1e-3)


# --- rounding --------------------------------------------------------------------------------------------------------


def test_rounding_never_crosses_a_bound_that_is_attained() -> None:
    """Both ends are attained by float32 arithmetic from the pixels on, which often lies beyond the exact value."""
    config = MemoryConfig(height_cells=3, width_cells=3, patch_cells=3, window_cells=(0, 0))
    view, generator, beyond, eps = WholeView(WholeConfig(size_px=6, cell_px=2)), draws(0), 0, 0.05
    for shape in [(6, 6), (17, 13), (4, 50)] * 4:
        sheets = memory_like(config, torch.full((3, 3, 3), 0.5), 1, 0.03, generator)
        detector = detector_of(view, config, sheets, standardised=False, generator=generator)
        side = torch.randn(1, 3, 1, 1, generator=generator).sign()
        image = (0.5 + 0.3 * side + 0.01 * torch.rand(1, 3, *shape, generator=generator)).contiguous()
        bounds = detector.score_bounds(image, eps, "linf")
        difference = view.sheets(image.double())[0] - sheets.double() / 255
        for sign, bound in ((1.0, bounds.upper), (-1.0, bounds.lower)):
            found = detector.scores(image + sign * eps * side)
            assert bool(bounds.lower <= found) and bool(found <= bounds.upper)
            assert float((found - bound).abs()) < 1e-3, "it is attained"
            exact = (difference + sign * eps * side).square().mean().sqrt()
            beyond += bool(sign * (found.double() - exact) > 0)
    assert beyond > 5
