"""Copies of normal images that enlarge a memory: shifted by half a cell, turned, mirrored.

Which copies are made depends on the plan alone, and all copies of an image belong to its group, so they are left out
together with it: the threshold keeps its promise (docs/certificates.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import cos, prod, radians, sin

import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.data.transforms import resize
from advrad.detectors.registration import RegisteredView
from advrad.detectors.views import WholeView
from advrad.training.closed_form_plan import CopyKind

#: Angle by which the copies of whole images are turned, to either side.
TURN_DEGREES = 2.0


def sheets_with_copies(
    view: WholeView | RegisteredView, images: Tensor, kinds: Sequence[CopyKind], aspect: float = 1.0
) -> Tensor:
    """Turn images into sheets, and their copies as well.

    - ``shifted``: by half a cell down, across, and both.
    - ``turned``: by 2 degrees to either side.
    - ``mirrored``: at the vertical middle, at the horizontal one, and at both; parts at their long axis only.

    Several kinds give all their combinations. What a moved copy lacks along the border is continued from there.

    Args:
        view: View.
        images: Images, (n, 3, h, w) float in [0, 1].
        kinds: Kinds of copies.
        aspect: Width of the pictured scene divided by its height.

    Returns:
        Sheets, (number of copies, n * parts, c, H, W), those of the images themselves first.

    Example:
        >>> from advrad.detectors.views import WholeConfig
        >>> view = WholeView(WholeConfig(size_px=16, cell_px=4))
        >>> tuple(sheets_with_copies(view, torch.rand(2, 3, 16, 16), ["shifted"]).shape)
        (4, 2, 3, 4, 4)
    """
    shifts = (0.0, view.config.cell_px / 2) if "shifted" in kinds else (0.0,)
    turns = (0.0, TURN_DEGREES, -TURN_DEGREES) if "turned" in kinds else (0.0,)
    moves = list(product(turns, shifts, shifts))[1:]  # the first leaves the images as they are
    square = resize(images, view.config.size_px) if moves else images
    with torch.no_grad():
        moved = [images, *(_moved(square, *move, aspect) for move in moves)]
        sheets = torch.stack([view.sheets(copy).flatten(0, 1) for copy in moved])
    if "mirrored" in kinds:
        sides = [(-2,)] if isinstance(view, RegisteredView) else [(-1,), (-2,), (-1, -2)]
        sheets = torch.cat([sheets, *(sheets.flip(of) for of in sides)])
    return sheets


def number_of_copies(view: WholeView | RegisteredView, kinds: Sequence[CopyKind]) -> int:
    """Number of sheets that each part of an image gives, its own included."""
    number = {"shifted": 4, "turned": 3, "mirrored": 2 if isinstance(view, RegisteredView) else 4}
    return prod(number[kind] for kind in kinds)


def turned_at_random(patches: Tensor, kinds: Sequence[CopyKind], generator: torch.Generator) -> Tensor:
    """Mirror and turn square patches, (m, c, k, k), by multiples of 90 degrees, each at random, as the kinds allow."""
    shape = (len(patches), 1, 1, 1)
    if "mirrored" in kinds:
        flips = torch.randint(4, shape, generator=generator)
        patches = torch.where(flips % 2 == 1, patches.flip(3), patches)
        patches = torch.where(flips >= 2, patches.flip(2), patches)
    if "turned" in kinds:
        turns = torch.randint(4, shape, generator=generator)
        patches = torch.where(turns % 2 == 1, patches.rot90(1, (2, 3)), patches)
        patches = torch.where(turns >= 2, patches.rot90(2, (2, 3)), patches)
    return patches


def _moved(square: Tensor, degrees: float, down_px: float, across_px: float, aspect: float) -> Tensor:
    """Turn square images, (n, c, s, s), about their middle, and shift them."""
    cosine, sine, side = cos(radians(degrees)), sin(radians(degrees)), square.shape[-1]
    # Where each pixel of the copy comes from, in half sides. A square may picture a scene of another aspect.
    rows = [[cosine, -sine / aspect, -2 * across_px / side], [sine * aspect, cosine, -2 * down_px / side]]
    grid = F.affine_grid(torch.tensor([rows]), [1, 1, side, side], align_corners=False)
    grid = grid.expand(len(square), -1, -1, -1).to(square)
    return F.grid_sample(square, grid, mode="bilinear", padding_mode="border", align_corners=False)
