"""Fit the score of what lies outside the parts of a registered product."""

from __future__ import annotations

import torch

from advrad.detectors.closed_form_config import StrayConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredView
from advrad.training.closed_form_members import Normals

#: Largest number of images from which the scale is learned.
_IMAGES = 64
#: Perturbation, linf, by which the score of normal images should change by 1 at most.
_RADIUS = 2 / 255
#: Share of normal images with less outside the parts than what counts as usual.
_USUAL = 0.95


def with_strays(member: ClosedFormMember, normals: Normals) -> ClosedFormMember:
    """Let a member score what lies outside the parts that it finds.

    The scale is the largest of the spread of normal images' shares, of how far a perturbation changes them, and of one
    whole weight, a square of ``mask_px`` pixels. The location lies one scale above what normal images rarely exceed:
    an image with nothing unusual has a score of -1 at most, so the other distances decide about it.

    Args:
        member: Member.
        normals: Normal images; only those to learn from are used.

    Returns:
        The member with such a score; the same member if it compares whole images.
    """
    view = member.view
    if not isinstance(view, RegisteredView) or not normals.learn:
        return member
    chosen = torch.linspace(0, len(normals.learn) - 1, min(len(normals.learn), _IMAGES)).round().long()
    shares, widths = [], [0.0]
    for row in torch.tensor(normals.learn)[chosen].split(1):  # type: ignore[no-untyped-call]
        image = normals.batch(row)
        shares.append(float(view.outside(image)))
        poses = view.reachable_poses(image, _RADIUS, "linf")
        if poses is not None:  # else nothing can be proven about the image, whatever the scale
            bounds = view.outside_bounds(image, _RADIUS, "linf", poses)
            widths.append(bounds.upper - bounds.lower)
    found = torch.tensor(shares, dtype=torch.float64)
    spread = float(found.std()) if len(found) > 1 else 0.0
    scale = max(spread, max(widths), 1 / view.config.usual_mass)
    strays = StrayConfig(location=float(found.quantile(_USUAL)) + scale, scale=scale)
    config = member.config.model_copy(update={"strays": strays})
    return ClosedFormMember(config, view, member.memory, member.mean, member.spread)
