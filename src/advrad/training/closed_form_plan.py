"""Plans for the members of a closed-form detector: what is fixed before the normal images are compared."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advrad.utils.config import Config

#: Kinds of copies of normal images.
CopyKind = Literal["shifted", "turned", "mirrored"]

#: Gain of the plans that tolerate other brightness.
GAIN = 0.15


class MemberPlan(Config):
    """How one member is fitted.

    Attributes:
        name: Name in records and messages.
        view: ``whole``: the image as it is; ``registered``: parts are found first.
        size_px: Side of the square to which images are resized.
        cell_px: Side of a cell, pixels; a whole number for ``whole``.
        channels: Values of a cell: 3 for colour, 1 for grey. Grey images always have 1.
        patch_cells: Side of a patch, cells; odd.
        window_cells: Largest distance, down and across, to the memory patches, cells; None compares all.
        stride_cells: Distance of neighbouring patches, cells.
        taper: ``flat`` or ``gaussian`` weights of the cells of a patch.
        gain: A memory patch may be this share brighter or darker.
        standardise: Whether distances are standardised by those of normal images.
        tolerance: Added to the spread of each site when distances are standardised.
        sheets: Largest number of sheets in the memory, with copies; does not count with ``centres``.
        patches: Largest number of patches in the memory of a plan without a window; does not count with ``centres``.
        centres: Number of centres that stand for the patches of normal images, in the window of each site or, without a
            window, in all, see :mod:`advrad.training.closed_form_centres`; None for patches as they are. Only for many
            images: those of the threshold must stay out of the memory.
        copies: Copies of normal images that are in the memory, too: ``shifted`` by half a cell, ``turned`` by 2
            degrees, ``mirrored``. Without a window each patch is mirrored, turned by a multiple of 90 degrees, and
            shifted at random. Registered parts are not turned.

    Example:
        >>> MemberPlan(name="coarse").window_cells
        (2, 2)
    """

    name: str
    view: Literal["whole", "registered"] = "whole"
    size_px: int = 256
    cell_px: float = 4
    channels: Literal[1, 3] = 3
    patch_cells: int = 7
    window_cells: tuple[int, int] | None = (2, 2)
    stride_cells: int = 3
    taper: Literal["flat", "gaussian"] = "flat"
    gain: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    standardise: bool = True
    tolerance: Annotated[float, Field(gt=0)] = 6 / 255
    sheets: Annotated[int, Field(gt=0)] = 64
    patches: Annotated[int, Field(gt=0)] = 24_000
    centres: Annotated[int, Field(gt=0)] | None = None
    copies: tuple[CopyKind, ...] = ()

    @model_validator(mode="after")
    def _copies_differ(self) -> Self:
        if len(set(self.copies)) < len(self.copies):
            raise ValueError("copies: name each kind once")
        if "turned" in self.copies and self.view == "registered":
            raise ValueError("copies: registered parts are turned to the same direction, so turned copies add nothing")
        return self

    def with_gain(self) -> MemberPlan:
        """The same plan, tolerant of other brightness."""
        return self.model_copy(update={"name": f"{self.name} with gain", "gain": GAIN})

    def with_copies(self, *kinds: CopyKind) -> MemberPlan:
        """The same plan with copies of normal images in its memory."""
        return self.model_copy(update={"name": f"{self.name}, {' and '.join(kinds)} copies", "copies": kinds})


#: Coarse patches at their place: few, quick, and robust against small displacements. The plan of few images.
COARSE = MemberPlan(name="coarse", stride_cells=2)
#: Fine patches at their place: for small defects.
FINE = MemberPlan(name="fine", cell_px=2, channels=1, patch_cells=9, window_cells=(2, 2), stride_cells=4)
#: The same with centres: their verdicts take a tenth of the time.
CENTRES: tuple[MemberPlan, ...] = tuple(
    plan.model_copy(update={"name": f"{plan.name} centres", "centres": 64, "window_cells": (1, 1)})
    for plan in (COARSE, FINE)
)
#: Fine patches of parts that are found first. They are large and plain: robust where a perturbation can turn a part.
REGISTERED = MemberPlan(
    name="registered",
    view="registered",
    cell_px=4 / 3,
    patch_cells=9,
    window_cells=(4, 7),
    stride_cells=3,
    sheets=40,
    standardise=False,
)
#: Small patches, standardised at each site of a part: for parts whose normal variation is local.
STANDARDISED = MemberPlan(
    name="registered, standardised",
    view="registered",
    cell_px=4 / 3,
    patch_cells=5,
    stride_cells=2,
    tolerance=2 / 255,
    sheets=200,
)
#: Fine patches wherever they lie: for textures.
TEXTURE = MemberPlan(
    name="texture",
    cell_px=2,
    channels=1,
    window_cells=None,
    taper="gaussian",
    standardise=False,
    centres=12_000,
    copies=("mirrored",),
)
#: Coarse patches of equal weights wherever they lie: they change least under a perturbation of a given l2 norm.
COARSE_TEXTURE = TEXTURE.model_copy(
    update={
        "name": "coarse texture",
        "cell_px": 4,
        "taper": "flat",
        "stride_cells": 2,
        "patches": 60_000,
        "centres": None,
    }
)
#: Members of a product that lies at the same place in every image. Changes of light are rare among normal images and
#: frequent in use, so gain is tolerated.
FIXED: tuple[MemberPlan, ...] = (COARSE.with_gain(), FINE.with_gain())
#: Members to choose from, where the product lies at the same place and there are many images; where parts stand out
#: from a background and move; where they lie in any direction, so that light falls on them from any side and the sites
#: of a part have no usual distance; and where no part stands out.
FOR_FIXED_PLACE: tuple[tuple[MemberPlan, ...], ...] = (tuple(plan.with_gain() for plan in CENTRES), FIXED)
FOR_MOVING_PARTS: tuple[tuple[MemberPlan, ...], ...] = ((REGISTERED,), (STANDARDISED,), (COARSE, FINE))
FOR_TURNED_PARTS: tuple[tuple[MemberPlan, ...], ...] = ((REGISTERED,), (COARSE, FINE))
FOR_SURFACES: tuple[tuple[MemberPlan, ...], ...] = ((COARSE, FINE), (TEXTURE,))
#: Further members to choose from, where the radius to optimise for is an l2 norm: for parts, and for surfaces.
FOR_L2: tuple[tuple[MemberPlan, ...], ...] = ((COARSE,),)
FOR_L2_SURFACES: tuple[tuple[MemberPlan, ...], ...] = ((COARSE_TEXTURE,),)
