"""Simplex noise in several octaves, which has coarse as well as fine structure.

Source: simplex noise, Perlin 2001; octaves and their weights for diffusion, Wyatt et al. 2022, "AnoDDPM: Anomaly
detection with denoising diffusion probabilistic models using simplex noise", section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Number of lattice cells after which the noise repeats.
_PERIOD = 256
#: Squared radius of a lattice point's influence: its ball ends at the far side of the cells around it, so the noise is
#: continuous.
_REACH = 0.5
#: Standard deviation of the sum over the lattice. Two lattice points lie in the unit volume, and over random unit
#: gradients ``(gradient . v)^2`` is ``|v|^2 / 3`` on average. The variance is therefore the integral of
#: ``2 (reach - |v|^2)^8 |v|^2 / 3`` over the ball, a beta function.
_DEVIATION = math.sqrt(4 * math.pi / 3 * _REACH**10.5 * math.gamma(2.5) * math.gamma(9) / math.gamma(11.5))


def _octave(points: list[Tensor], order: Tensor, slopes: Tensor) -> Tensor:
    """Evaluate three-dimensional simplex noise.

    Args:
        points: Three tensors of coordinates >= 0 that broadcast, in units in which the edge of a simplex is about 1.
        order: Permutation of 0 to period - 1 by which lattice points choose their gradients, (period,).
        slopes: Unit gradient vectors that add up to 0, (period, 3).

    Returns:
        Noise of the broadcast shape, of mean 0 and variance 1 over all gradients and positions.
    """
    # Skewing by a third of the coordinates' sum turns the lattice of simplices into cubes; a sixth inverts it.
    skew = (points[0] + points[1] + points[2]) / 3
    cube = [(point + skew).floor() for point in points]
    unskew = (cube[0] + cube[1] + cube[2]) / 6
    inside = [point - (corner - unskew) for point, corner in zip(points, cube, strict=True)]
    # The corners of a simplex are reached from the cube's origin by steps along the axes, the largest offset first.
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
    """Draw simplex noise; as in the paper, each plane is a slice of three-dimensional noise at a random depth.

    Octave j has the period ``period_px / 2^j`` and the amplitude ``persistence^j``; the sum is divided by the root of
    the sum of their squares. Each plane has its own random position in the noise, so planes are practically
    independent.

    Args:
        shape: Shape of the noise, (b, c, h, w).
        generator: Source of the draw; the noise is made on its device.
        octaves: Number of octaves.
        persistence: Amplitude of each octave relative to the one before, above 0.
        period_px: Period of the coarsest octave in pixels; the paper's 64 is for images of 256 px.

    Returns:
        Noise, (b, c, h, w), float32, of mean 0 and variance 1 over draws. The mean and variance of one draw differ from
        that, the more so the fewer coarse periods it spans.
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


def random_crops(canvas: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut randomly placed, rotated and mirrored planes out of a large one, which is cheaper than new noise.

    Args:
        canvas: Noise, (side, side).
        images: Images, (b, c, h, h), for the shape, type and device; h is at most the side of the canvas.
        generator: Source of the draw.

    Returns:
        Noise, (b, c, h, h).
    """
    count, side = images.shape[0] * images.shape[1], images.shape[-1]
    places = torch.randint(len(canvas) - side + 1, (count, 2), generator=generator).tolist()
    turns = torch.randint(8, (count,), generator=generator).tolist()
    planes = []
    for (top, left), turn in zip(places, turns, strict=True):
        plane = canvas[top : top + side, left : left + side].rot90(turn % 4)
        planes.append(plane.T if turn >= 4 else plane)
    return torch.stack(planes).view(images.shape).to(images)
