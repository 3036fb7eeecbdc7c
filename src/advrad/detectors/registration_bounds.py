"""Every pose of a part that a perturbation can cause.

The weights of a perturbed image lie in a box: each between its own bounds. A pose asks for a list of moments to be >= 0
(:mod:`advrad.detectors.registration_moments`), each linear in the weights:

- angle: the product moment about the position has the right sign at both ends of the lattice angle's interval,
- position: the centroid lies within half a step of the lattice position, in both directions,
- end: the third moment has the right sign.

A pose is impossible if some combination of its moments, with factors >= 0, is below 0 for all weights in the box. The
factors are searched by descent; whichever they are, what they exclude is excluded with certainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from advrad.detectors.registration_moments import across, along, cube, product, wedge

#: Positions on either side of the centroid that are examined.
_REACH = 24
#: Steps of the search for factors.
_STEPS = 40
#: A moment counts as below 0 only if it is so by this share of its scale: covers rounding in float64.
_MARGIN = 1e-9


class Pose(NamedTuple):
    """Pose of a part on its lattice.

    Attributes:
        turn: Index of the lattice angle.
        row: Position across the long axis, lattice steps.
        column: Position along the long axis, lattice steps.
        flipped: Whether the sheet is turned by 180 degrees.
    """

    turn: int
    row: int
    column: int
    flipped: bool


@dataclass(frozen=True, slots=True)
class Lattice:
    """The poses that a part can take.

    Attributes:
        base: Direction from which turns are counted, radians.
        turns: Lattice angles in half a turn.
        column_step: Distance of positions along the long axis, in half sides of the square.
        row_step: Distance of positions across it.
        flip: Third moment that decides between both directions of the axis: ``reach`` by which end reaches further,
            ``width`` by which is wider, ``both`` by their sum; None for no decision.
        balance: What the moment of ``width`` is multiplied with before it is added to that of ``reach``.
    """

    base: float
    turns: int
    column_step: float
    row_step: float
    flip: Literal["reach", "width", "both"] | None
    balance: float = 0.0

    @property
    def step(self) -> float:
        """Distance of lattice angles in radians."""
        return math.pi / self.turns

    def angle(self, turn: Tensor) -> Tensor:
        """Angles in radians, float64, of lattice angles by index."""
        return self.base + (turn - self.turns // 2).double() * self.step

    def ends(self, angle: Tensor, along_offset: Tensor, across_offset: Tensor) -> Tensor:
        """The polynomial, (..., 10), whose moment is below 0 if the part is turned by 180 degrees."""
        if self.flip == "reach":
            return cube(angle, along_offset)
        wider = wedge(angle, along_offset, across_offset)
        return wider if self.flip == "width" else cube(angle, along_offset) + self.balance * wider

    def nearest(self, axis: Tensor) -> Tensor:
        """Index of the lattice angle nearest to the direction of an axis in radians."""
        return (((axis - self.base) / self.step).round().long() + self.turns // 2) % self.turns


class Interval:
    """The weights of all images within a radius of one image.

    Args:
        basis: Monomials, (10, p) float64.
        value: Weights of the unperturbed image, (p,).
        low: Least weights, (p,).
        high: Largest weights, (p,).
        together: Largest l2 norm of the change of all weights together; None if only the box bounds it.
    """

    def __init__(self, basis: Tensor, value: Tensor, low: Tensor, high: Tensor, together: float | None) -> None:
        moving = high > low
        self.value, self.low, self.high = value, low, high
        self.together = together
        self.basis = basis[:, moving]
        self.half = ((high - low) / 2)[moving]
        self.moments = basis @ value
        self.middle = basis @ ((low + high) / 2)

    @cached_property
    def masses(self) -> tuple[float, float]:
        """Least and largest sum of the weights."""
        one = torch.eye(1, 10, dtype=torch.float64)
        return -float(self.largest(-one)[0]), float(self.largest(one)[0])

    def sums(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Bound weighted sums of the weights, each (n,), with shares >= 0, (n, p)."""
        low, high = shares @ self.low.double(), shares @ self.high.double()
        if self.together is None:
            return low, high
        middle, reach = shares @ self.value.double(), self.together * shares.norm(dim=1)
        return torch.maximum(low, middle - reach), torch.minimum(high, middle + reach)

    def largest(self, polynomials: Tensor) -> tuple[Tensor, Tensor]:
        """Compute upper bounds of moments over all weights; exact for the box.

        Args:
            polynomials: Coefficients, (n, 10).

        Returns:
            Bounds, (n,), and the moments of the weights that attain them, (n, 10).
        """
        values = polynomials @ self.basis
        bounds = polynomials @ self.middle + values.abs() @ self.half
        moments = self.middle + (self.half * values.sign()) @ self.basis.T
        if self.together is None:
            return bounds, moments
        norms = values.norm(dim=1)
        others = polynomials @ self.moments + self.together * norms
        other_moments = self.moments + self.together * (values / norms.clamp_min(1e-30)[:, None]) @ self.basis.T
        better = others < bounds
        return torch.where(better, others, bounds), torch.where(better[:, None], other_moments, moments)

    def spreads(self, polynomials: Tensor) -> Tensor:
        """Scale of the change of moments, (..., 10) to (...,), > 0: only for the search, not for proofs."""
        spreads: Tensor = (polynomials @ self.basis).abs() @ self.half
        return spreads.clamp_min(1e-12)


def _numbers(values: list[float] | list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _possible(interval: Interval, polynomials: Tensor) -> Tensor:
    """Whether moments can be >= 0, (n,) bool."""
    return interval.largest(polynomials)[0] >= -_MARGIN * max(interval.masses[1], 1.0)


def _turns(interval: Interval, lattice: Lattice, least_mass: float) -> list[int]:
    """Indices of the lattice angles that the long axis can have.

    The central product moment is the product moment about a fixed point less the product of both first moments about
    it, divided by the mass. The fixed point is the centroid of the middle of the box.
    """
    if lattice.turns == 1:
        return [0]
    index = torch.arange(lattice.turns)
    starts = lattice.angle(index) - lattice.step / 2
    x, y = (interval.middle[1:3] / interval.middle[0]).tolist()
    u, v = x * starts.cos() + y * starts.sin(), y * starts.cos() - x * starts.sin()
    firsts = []
    for polynomials in (along(starts, u), across(starts, v)):
        firsts.append(torch.maximum(interval.largest(polynomials)[0], interval.largest(-polynomials)[0]))
    rest = firsts[0] * firsts[1] / least_mass
    products = product(starts, u, v)
    margin = _MARGIN * max(interval.masses[1], 1.0)
    # The moment is that of the angle's own start, and with the other sign that of its end, the start of the next.
    after_start = interval.largest(products)[0] + rest >= -margin
    before = interval.largest(-products)[0] + rest >= -margin
    # A turn by 180 degrees leaves the product moment as it is, so the end of the last is the start of the first.
    before_end = before.roll(-1)
    return index[after_start & before_end].tolist()


def _positions(interval: Interval, angle: float, step: float, centre: float, along_axis: bool) -> range | None:
    """Lattice positions that the centroid can round to; None if they are too many.

    Weights are >= 0: once the centroid cannot lie beyond a boundary, it cannot lie beyond a further one.
    """
    first = round(centre / step)
    indices = torch.arange(first - _REACH, first + _REACH + 1)
    angles = torch.full((len(indices),), angle, dtype=torch.float64)
    line = along if along_axis else across
    above = _possible(interval, line(angles, (indices - 0.5) * step))
    below = _possible(interval, -line(angles, (indices + 0.5) * step))
    inside = indices[above & below].tolist()
    if bool(above[-1]) or bool(below[0]):
        return None
    return range(min(inside), max(inside) + 1) if inside else range(first, first + 1)


def _constraints(lattice: Lattice, poses: list[Pose]) -> Tensor:
    """Polynomials whose moments must be >= 0 for each pose, (n, k, 10)."""
    angles = lattice.angle(torch.tensor([pose.turn for pose in poses]))
    u = _numbers([pose.column for pose in poses]) * lattice.column_step
    v = _numbers([pose.row for pose in poses]) * lattice.row_step
    du, dv = lattice.column_step / 2, lattice.row_step / 2
    found = [along(angles, u - du), -along(angles, u + du), across(angles, v - dv), -across(angles, v + dv)]
    if lattice.turns > 1:
        # The centroid is within (du, dv) of the position, which bounds the product of both first moments.
        for sign in (1, -1):
            turned = angles - sign * lattice.step / 2
            cos, sin = math.cos(lattice.step / 2), math.sin(lattice.step / 2)
            x, y = u * angles.cos() - v * angles.sin(), u * angles.sin() + v * angles.cos()
            moment = product(turned, x * turned.cos() + y * turned.sin(), y * turned.cos() - x * turned.sin()) * sign
            moment[:, 0] += (du * cos + dv * sin) * (dv * cos + du * sin)
            found.append(moment)
    if lattice.flip:
        signs = _numbers([-1.0 if pose.flipped else 1.0 for pose in poses])
        found.append(lattice.ends(angles, u, v) * signs[:, None])
    return torch.stack(found, 1)


def _still_possible(interval: Interval, lattice: Lattice, poses: list[Pose]) -> list[Pose]:
    """Leave out poses that a combination of their moments excludes.

    The search for a pose ends when it is excluded, or when weights are found that cause it.
    """
    constraints = _constraints(lattice, poses)
    constraints = constraints / interval.spreads(constraints)[..., None]
    margin = _MARGIN * max(interval.masses[1], 1.0) * constraints.abs().amax((1, 2))
    possible = torch.ones(len(poses), dtype=torch.bool)
    open_ = torch.arange(len(poses))
    logits = torch.zeros(constraints.shape[:2], dtype=torch.float64)
    mean = torch.zeros(len(poses), constraints.shape[2], dtype=torch.float64)
    for step in range(_STEPS):
        bounds, moments = interval.largest((logits.softmax(1)[..., None] * constraints).sum(1))
        excluded = bounds < -margin
        possible[open_[excluded]] = False
        mean = mean + (moments - mean) / (step + 1)
        slopes = (constraints @ moments[..., None])[..., 0]
        caused = ((constraints @ mean[..., None])[..., 0] >= 0).all(1) | (slopes >= 0).all(1)
        keep = ~(excluded | caused)
        if not bool(keep.any()):
            break
        slopes = slopes - slopes.mean(1, keepdim=True)
        slopes = slopes / slopes.abs().amax(1, keepdim=True).clamp_min(1e-12)
        logits = logits - slopes * (2.0 / math.sqrt(1 + step))
        if not bool(keep.all()):
            open_, constraints, margin, logits, mean = (
                values[keep] for values in (open_, constraints, margin, logits, mean)
            )
    return [pose for pose, still in zip(poses, possible.tolist(), strict=True) if still]


def reachable_poses(
    interval: Interval, lattice: Lattice, least_mass: float, default: Pose, limit: int
) -> list[Pose] | None:
    """List every pose that weights in the interval can cause.

    Args:
        interval: Weights of a part in all images within the radius.
        lattice: Poses that the part can take.
        least_mass: Sum of weights below which the part has its default pose.
        default: Default pose.
        limit: Largest number of poses.

    Returns:
        The poses, and perhaps a few that no perturbation causes; None if they are more than the limit.
    """
    lowest, highest = interval.masses
    margin = _MARGIN * max(highest, 1.0)
    found = [default] if lowest < least_mass + margin else []
    if highest < least_mass - margin:
        return found
    least_mass = max(least_mass, lowest)  # a part with less has its default pose
    if least_mass <= margin:
        return None
    x, y = (interval.middle[1:3] / interval.middle[0]).tolist()
    poses: list[Pose] = []
    for turn in _turns(interval, lattice, least_mass):
        angle = float(lattice.angle(torch.tensor(turn)))
        u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        columns = _positions(interval, angle, lattice.column_step, u, along_axis=True)
        rows = _positions(interval, angle, lattice.row_step, v, along_axis=False)
        if columns is None or rows is None:
            return None
        ends = (False, True) if lattice.flip else (False,)
        poses += [Pose(turn, row, column, flipped) for row in rows for column in columns for flipped in ends]
        if len(poses) > 16 * limit:
            return None
    poses = _still_possible(interval, lattice, poses) if poses else []
    found += [pose for pose in poses if pose not in found]
    return found if len(found) <= limit else None
