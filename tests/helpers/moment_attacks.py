"""Attacks on how a part is found: on its position, its turn, its end, and what lies outside its sheet."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_bounds import Pose
from advrad.detectors.registration_moments import across, along, cube, product, wedge
from advrad.detectors.views import Norm


def pose_of(view: RegisteredView, image: Tensor, part: int = 0) -> Pose:
    poses = view.poses(image)
    return Pose(
        int(poses.turn[0, part]), int(poses.row[0, part]), int(poses.column[0, part]), bool(poses.flipped[0, part])
    )


def attacked(view: RegisteredView, image: Tensor, polynomial: Tensor, radius: float, norm: Norm) -> Tensor:
    """Push every weight up where the polynomial is above 0, down elsewhere: the strongest attack on its moment."""
    change = image.clone().requires_grad_()
    differences = view.differences(view.square(change))
    if norm == "linf":
        towards = (polynomial @ view.basis).sign()
    else:  # the weights on the ramp are the ones that move
        on_ramp = (view.ramp(differences) > 0) & (view.ramp(differences) < 1)
        towards = (polynomial @ view.basis) * on_ramp
    (gradient,) = torch.autograd.grad((differences * towards).sum(), change)
    # One channel decides a difference; the others may move with it.
    if norm == "linf":
        step = gradient.sum(1, keepdim=True).sign().expand_as(image)
        return image + radius * step
    return image + radius * gradient / gradient.norm().clamp_min(1e-12)


def attacks(view: RegisteredView, image: Tensor, radius: float, norm: Norm, part: int = 0) -> list[Tensor]:
    """Attacks on position, turn and end of a part, on mixtures of them, and noise."""
    pose, lattice = pose_of(view, image, part), view.lattices[part]
    angle = lattice.angle(torch.tensor([pose.turn]))
    u = torch.tensor([pose.column * lattice.column_step], dtype=torch.float64)
    v = torch.tensor([pose.row * lattice.row_step], dtype=torch.float64)
    pure = [along(angle, u), across(angle, v), product(angle, u, v), cube(angle, u), wedge(angle, u, v)]
    draws = torch.Generator().manual_seed(7)
    found = []
    for signs in itertools.product((-1, 0, 1), repeat=3):
        mixed = sum(sign * moment / (moment @ view.basis).norm() for sign, moment in zip(signs, pure, strict=False))
        if isinstance(mixed, Tensor):
            found.append(attacked(view, image, mixed, radius, norm))
    found += [attacked(view, image, sign * moment, radius, norm) for moment in pure[3:] for sign in (-1, 1)]
    for _ in range(10):
        noise = torch.randn(image.shape, generator=draws).double()
        found.append(image + (radius * noise.sign() if norm == "linf" else radius * noise / noise.norm()))
        mixed = torch.randn(1, 10, generator=draws).double()
        found.append(attacked(view, image, mixed, radius, norm))
    return found


def stray_attacks(view: RegisteredView, image: Tensor, radius: float, norm: Norm, steps: int = 4) -> list[Tensor]:
    """Attacks that raise and lower the share outside the sheets by its gradient, alone and after those on the pose."""
    found = []
    for sign in (-1, 1):
        for start in [image, *attacks(view, image, radius, norm)[::6]]:
            change = (start - image).detach()
            for _ in range(steps):
                moved = (image + change).requires_grad_()
                (gradient,) = torch.autograd.grad(sign * view.outside(moved).sum(), moved)
                if norm == "linf":
                    change = (change + radius * gradient.sign()).clamp(-radius, radius)
                else:
                    change = change + radius * gradient / gradient.norm().clamp_min(1e-12)
                    change = change * min(1.0, radius / max(float(change.norm()), 1e-12))
            found.append(image + change)
    return found
