"""Simplex noise in several octaves: noise that is coarse as well as fine, where Gaussian noise is fine alone.

Source: simplex noise, Perlin 2001; octaves and their weights for diffusion, Wyatt et al. 2022, "AnoDDPM: Anomaly
detection with denoising diffusion probabilistic models using simplex noise", section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Simplex noise repeats after so many cells of its lattice.
_PERIOD = 256
#: Squared reach of a lattice point: its ball just touches the far side of the cells around it, so nothing jumps.
_REACH = 0.5
#: Standard deviation of the sum over the lattice. Two lattice points lie in the unit volume, and a random unit slope
#: makes ``(slope . v)^2`` equal ``|v|^2 / 3`` in the mean: the variance is the integral of
#: ``2 (reach - |v|^2)^8 |v|^2 / 3`` over the ball, a beta function.
_DEVIATION = math.sqrt(4 * math.pi / 3 * _REACH**10.5 * math.gamma(2.5) * math.gamma(9) / math.gamma(11.5))


def _octave(points: list[Tensor], order: Tensor, slopes: Tensor) -> Tensor:
    """Simplex noise in three dimensions.

    Args:
        points: three tensors that broadcast: coordinates >= 0, in units in which a simplex has an edge of about 1.
        order: (period,) a permutation of 0 to period - 1, by which lattice points pick their slopes.
        slopes: (period, 3) unit vectors that add up to 0.

    Returns:
        As the coordinates broadcast, mean 0 and variance 1 over all slopes and positions.
    """
    # Skewed by a third of the coordinates' sum, the lattice of simplices is one of cubes; a sixth leads back.
    skew = (points[0] + points[1] + points[2]) / 3
    cube = [(point + skew).floor() for point in points]
    unskew = (cube[0] + cube[1] + cube[2]) / 6
    inside = [point - (corner - unskew) for point, corner in zip(points, cube, strict=True)]
    # A simplex's corners are reached from its cube's origin by steps along the axes, the longest offset first.
    y_first, z_first, z_second = inside[1] > inside[0], inside[2] > inside[0], inside[2] > inside[1]
    rank = [y_first.int() + z_first.int(), z_second.int() + ~y_first, 2 - z_first.int() - z_second.int()]
    cells = [corner.long() for corner in cube]
    total = torch.zeros_like(unskew)
    for steps in range(4):
        index = torch.zeros_like(cells[0])
        squared, rise = torch.zeros_like(total), torch.zeros_like(total)
        offsets = []
        for axis in range(3):
            step = rank[axis] < steps
            index = order.take((index + cells[axis] + step) % _PERIOD)
            offsets.append(inside[axis] - step.to(total) + steps / 6)
        for offset, slope in zip(offsets, slopes.unbind(1), strict=True):
            squared += offset.square()
            rise += slope.contiguous().take(index) * offset
        total += (_REACH - squared).clamp_min(0).square().square() * rise
    return total / _DEVIATION


def simplex_noise(
    shape: Sequence[int],
    generator: torch.Generator,
    *,
    octaves: int = 6,
    persistence: float = 0.8,
    period_px: float = 64.0,
) -> Tensor:
    """Draw simplex noise; as in the paper, each plane is a slice at a random depth of noise in three dimensions.

    Octave j has a period of ``period_px / 2^j`` and the amplitude ``persistence^j``; the sum is divided by the root of
    the sum of their squares. Every plane lies at a place of its own in the noise, so planes are as good as independent.

    Args:
        shape: (b, c, h, w).
        generator: source of the draw; the noise is made on its device.
        octaves: how many are added.
        persistence: amplitude of each, relative to the one before, > 0.
        period_px: of the coarsest octave; the paper's 64 belong to images of 256 px.

    Returns:
        (b, c, h, w) float32. Mean 0 and variance 1 over draws; one draw's own mean and variance differ from that, the
        more the fewer coarse periods it spans, and that is as it should be: coarse noise hides coarse defects.
    """
    device = generator.device
    half = torch.randn(_PERIOD // 2, 3, generator=generator, device=device)
    half = half / half.norm(dim=1, keepdim=True)
    slopes = torch.cat([half, -half])
    order = torch.randperm(_PERIOD, generator=generator, device=device)
    batch, channels, height, width = shape
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=device, dtype=torch.float32)
    total = torch.zeros(batch, channels, height, width, device=device)
    power = 0.0
    for octave in range(octaves):
        y, x, depth = _PERIOD * torch.rand(3, batch, channels, 1, 1, generator=generator, device=device)
        scale, amplitude = 2**octave / period_px, persistence**octave
        total += amplitude * _octave([y + scale * rows, x + scale * columns, depth], order, slopes)
        power += amplitude**2
    return total / math.sqrt(power)


def cut(canvas: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut planes from random places of a large one, turned and mirrored at random: much noise for little work.

    Args:
        canvas: (side, side) noise.
        images: (b, c, h, h), for shape, type and device; h is no larger than the canvas.
        generator: source of the draw.

    Returns:
        (b, c, h, h).
    """
    count, side = images.shape[0] * images.shape[1], images.shape[-1]
    places = torch.randint(len(canvas) - side + 1, (count, 2), generator=generator).tolist()
    turns = torch.randint(8, (count,), generator=generator).tolist()
    planes = []
    for (top, left), turn in zip(places, turns, strict=True):
        plane = canvas[top : top + side, left : left + side].rot90(turn % 4)
        planes.append(plane.T if turn >= 4 else plane)
    return torch.stack(planes).view(images.shape).to(images)
