"""Polynomials of degree 3 in the position, and the moments that they give.

A moment is ``sum over pixels of weight * polynomial(position)``: linear in the weights. Whatever decides the pose of a
part is the sign of a moment (:mod:`advrad.detectors.registration`), so how far a perturbation can change it can be
computed (:mod:`advrad.detectors.registration_bounds`).

A polynomial is a row of coefficients of 1, x, y, x^2, xy, y^2, x^3, x^2 y, x y^2, y^3. In the frame that is turned by
an angle, ``u = x cos + y sin`` and ``v = y cos - x sin``.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Powers of x and y in each term of a polynomial.
_EXPONENTS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
_PLACES = {powers: place for place, powers in enumerate(_EXPONENTS)}
#: Number of terms of degree at most 1, and at most 2.
_LINEAR, _QUADRATIC = 3, 6


def monomials(x: Tensor, y: Tensor) -> Tensor:
    """Values of all monomials at the positions, (10, p), from x and y, (p,)."""
    return torch.stack([x**i * y**j for i, j in _EXPONENTS])


def _line(constant: Tensor, x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(constant)
    return torch.stack([constant, x, y, *[zero] * (len(_EXPONENTS) - _LINEAR)], -1)


def along(angle: Tensor, offset: Tensor) -> Tensor:
    """The polynomial ``u - offset``.

    Args:
        angle: Angle of the frame in radians, (...,) float64.
        offset: Offset in u, same shape.

    Returns:
        Coefficients, (..., 10).
    """
    return _line(-offset, angle.cos(), angle.sin())


def across(angle: Tensor, offset: Tensor) -> Tensor:
    """The polynomial ``v - offset``; arguments as for :func:`along`."""
    return _line(-offset, -angle.sin(), angle.cos())


def times(first: Tensor, second: Tensor) -> Tensor:
    """The product of a polynomial of degree 1 and one of degree at most 2, (..., 10) each."""
    result = torch.zeros_like(second)
    for i, (x, y) in enumerate(_EXPONENTS[:_LINEAR]):
        for j, (more_x, more_y) in enumerate(_EXPONENTS[:_QUADRATIC]):
            result[..., _PLACES[x + more_x, y + more_y]] += first[..., i] * second[..., j]
    return result


def product(angle: Tensor, along_offset: Tensor, across_offset: Tensor) -> Tensor:
    """The polynomial ``(u - along_offset) (v - across_offset)``; its moment is 0 along the principal axes."""
    return times(along(angle, along_offset), across(angle, across_offset))


def cube(angle: Tensor, offset: Tensor) -> Tensor:
    """The polynomial ``(u - offset)^3``; the sign of its moment says which end reaches further."""
    line = along(angle, offset)
    return times(line, times(line, line))


def wedge(angle: Tensor, along_offset: Tensor, across_offset: Tensor) -> Tensor:
    """The polynomial ``(u - along_offset) (v - across_offset)^2``; the sign of its moment says which end is wider."""
    width = across(angle, across_offset)
    return times(along(angle, along_offset), times(width, width))


def principal_axes(moments: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Compute centroids and principal axes.

    Args:
        moments: Moments of the monomials, (n, 10) float64.

    Returns:
        x and y of the centroid, the direction of the long axis in radians, and the variances along and across it; each
        (n,).
    """
    mass = moments[:, 0].clamp_min(1e-12)
    x, y = moments[:, 1] / mass, moments[:, 2] / mass
    xx, xy, yy = moments[:, 3] / mass - x * x, moments[:, 4] / mass - x * y, moments[:, 5] / mass - y * y
    middle, root = (xx + yy) / 2, ((xx - yy) ** 2 / 4 + xy**2).sqrt()
    return x, y, torch.atan2(2 * xy, xx - yy) / 2, (middle + root, (middle - root).clamp_min(0))
