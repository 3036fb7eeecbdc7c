"""Threat models with a usual radius for each norm."""

from __future__ import annotations

from advrad.attacks.threat import Norm, Threat

RADII = {"linf": 8 / 255, "l2": 0.7}


def threat(norm: Norm, eps: float | None = None) -> Threat:
    return Threat(norm=norm, eps=RADII[norm] if eps is None else eps)
