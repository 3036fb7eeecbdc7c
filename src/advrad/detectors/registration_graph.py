"""How the parts of a product are found in an exported graph, in float32.

Some runtimes compute float64 as float32. Moments about the centre of the image are then too coarse: most of them
cancels when they are moved to the part. Here they are sums about the part itself, which hold in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advrad.detectors.registration_bounds import Lattice


def graph_lines(angle: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in turned frames: along and across, (b, p) each.

    Args:
        angle: Angles of the frames in radians, (b,).
        x: Positions in the image, (p,) or (b, p).
        y: The same, downwards.
    """
    cos, sin = angle.to(x.dtype).cos()[:, None], angle.to(x.dtype).sin()[:, None]
    return x * cos + y * sin, y * cos - x * sin


def graph_pose(lattice: Lattice, weights: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the pose of a part.

    Args:
        lattice: Poses that the part can take.
        weights: Weights of the part, (b, p) float32 in [0, 1].
        x: Positions of the weights, (p,) float32, in half sides of the square.
        y: The same, downwards.

    Returns:
        Index of the lattice angle, position across and along the long axis in lattice steps, and whether the part is
        turned by 180 degrees; each (b,).
    """
    mass = weights.sum(1, keepdim=True).clamp_min(1e-12)

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum(1, keepdim=True) / mass

    middle_x, middle_y = mean(x), mean(y)
    from_x, from_y = x - middle_x, y - middle_y
    axis = torch.atan2(2 * mean(from_x * from_y), mean(from_x.square() - from_y.square())) / 2
    turn = lattice.nearest(axis[:, 0])
    angle = lattice.angle(turn)
    along, across = graph_lines(angle, middle_x, middle_y)
    column, row = (along / lattice.column_step).round(), (across / lattice.row_step).round()
    flipped = torch.zeros_like(turn, dtype=torch.bool)
    if lattice.flip:
        u, v = graph_lines(angle, x, y)
        u, v = u - column * lattice.column_step, v - row * lattice.row_step
        factors = {"reach": (1.0, 0.0), "width": (0.0, 1.0), "both": (1.0, lattice.balance)}[lattice.flip]
        flipped = mean(u * (factors[0] * u.square() + factors[1] * v.square()))[:, 0] < 0
    return turn, row[:, 0], column[:, 0], flipped


def graph_beyond(
    angle: Tensor, middle: tuple[Tensor, Tensor], half: tuple[float, float], x: Tensor, y: Tensor
) -> Tensor:
    """Which positions lie outside a sheet.

    Args:
        angle: Angles of the frames in radians, (b,).
        middle: Position of the middle of the sheet, along and across, (b,) each.
        half: Half of the width and of the height of the sheet.
        x: Positions, (p,) float32.
        y: The same, downwards.

    Returns:
        Whether they are outside, (b, p) bool.
    """
    u, v = graph_lines(angle, x, y)
    return ((u - middle[0].to(u)[:, None]).abs() > half[0]) | ((v - middle[1].to(v)[:, None]).abs() > half[1])
