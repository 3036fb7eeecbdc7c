"""Fit one member of a closed-form detector: its view, its memory, and the statistics of its distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.data.splits import ALL_IN_MEMORY
from advrad.data.transforms import resize
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.closed_form_config import MemberConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_fit import RegistrationOptions, fit_registration
from advrad.detectors.views import WholeConfig, WholeView
from advrad.training.closed_form_centres import PATCHES_PER_CENTRE, centres_by_site, centres_of
from advrad.training.closed_form_copies import number_of_copies, sheets_with_copies, turned_at_random
from advrad.training.closed_form_plan import CopyKind, MemberPlan
from advrad.utils.seeding import generator_for

#: Largest number of images from which the distances of each site are standardised.
STATISTICS = 96
#: Least spread of the scores of normal images, for scores of standardised distances and of plain ones.
_LEAST_SCALE, _LEAST_PLAIN_SCALE = 1e-3, 1e-5
#: Images whose distances are computed at once.
_BATCH = 8
#: Largest size of a memory, prepared for comparison, in bytes; and the sheets for which it must suffice in colour.
_TABLE_BYTES, _COLOUR_SHEETS = 200_000_000, 40
#: Largest number of images from whose patches centres are computed.
_CENTRES_FROM = 256
#: Group of memory patches that mix images.
_MIXED = -1
#: Difference of the channels up to which an image counts as grey.
_GREY = 2 / 255


@dataclass(frozen=True, eq=False)
class Normals:
    """Normal images, and what each may be used for.

    Attributes:
        images: Images, (n, 3, h, w), float in [0, 1] or uint8.
        groups: Number of the first image that is equal to each, (n,) int64.
        learn: Numbers of the images from which settings and statistics are learned; may be empty.
        memory: Numbers of the images that may enter the memory.
        aspect: Width of the pictured scene divided by its height.
        seed: Seed of all random draws.
    """

    images: Tensor
    groups: Tensor
    learn: tuple[int, ...]
    memory: tuple[int, ...]
    aspect: float
    seed: int

    def batch(self, rows: Tensor) -> Tensor:
        """Images as float in [0, 1]."""
        chosen = self.images[rows]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen


def fit_member(
    plan: MemberPlan, normals: Normals, advance: Callable[[int], None] = lambda done: None
) -> ClosedFormMember | None:
    """Fit a member.

    Args:
        plan: Plan.
        normals: Normal images.
        advance: Receives the number of images that were compared with the others since the last call.

    Returns:
        The member, or None if the plan registers parts and none stands out from a background.
    """
    view = make_view(plan, normals)
    if view is None:
        return None
    generator = generator_for(normals.seed, "closed form", plan.name)
    config = _memory_config(plan, view)
    learn = torch.tensor(normals.learn, dtype=torch.long)
    learn = learn[torch.randperm(len(learn), generator=generator)]
    # No image can be left out of centres, so the statistics are those of other images.
    apart = len(learn) // 4 if plan.centres is not None else 0
    memory = _memory(plan, view, normals, learn[apart:], generator)
    zero = torch.zeros(1, 1, *config.sites)
    settings = MemberConfig(view=view.config, memory=memory.config)
    if not len(learn):
        return ClosedFormMember(settings, view, memory, zero, zero.clone())
    learn = (learn[:apart] if apart else learn)[:STATISTICS].sort().values
    known = _without_others(memory, normals)
    distances = leave_one_out(ClosedFormMember(settings, view, known, zero, zero.clone()), normals, learn, advance)
    mean, spread = zero, zero.clone()
    if plan.standardise:
        mean, spread = distances.mean(0, keepdim=True), distances.std(0, keepdim=True)
        settings = settings.model_copy(update={"tolerance": plan.tolerance})
    member = ClosedFormMember(settings, view, memory, mean, spread)
    # In units of normal images' scores, so that members can be compared.
    scores = member.pooled(member.standardise(distances)).view(len(learn), -1).amax(1)
    least = _LEAST_SCALE if plan.standardise else _LEAST_PLAIN_SCALE
    update = {"location": float(scores.median()), "scale": max(float(scores.std()), least)}
    return ClosedFormMember(settings.model_copy(update=update), view, memory, mean, spread)


def make_view(plan: MemberPlan, normals: Normals) -> WholeView | RegisteredView | None:
    """Make the view of a plan; what it learns comes from the images to learn from."""
    rows = torch.tensor(normals.learn, dtype=torch.long)
    channels = 1 if plan.channels == 1 or (normals.learn and is_grey(normals.batch(rows[:32]))) else 3
    if plan.view == "whole":
        return WholeView(WholeConfig(size_px=plan.size_px, cell_px=round(plan.cell_px), channels=channels))
    if not normals.learn:
        return None
    chosen = rows[torch.linspace(0, len(rows) - 1, min(len(rows), 120)).round().long()]
    options = RegistrationOptions(size_px=plan.size_px, cell_px=plan.cell_px, channels=channels)
    view = fit_registration(normals.batch(chosen), normals.aspect, options)
    if view is not None and channels == 3 and _bytes_of_a_sheet(plan, view) * _COLOUR_SHEETS > _TABLE_BYTES:
        grey = view.config.model_copy(update={"channels": 1})
        view = RegisteredView(grey, view.background, view.regions)
    smallest = plan.patch_cells + 2
    return None if view is None or min(view.shape[1:]) < smallest else view


def _memory(
    plan: MemberPlan,
    view: WholeView | RegisteredView,
    normals: Normals,
    learn: Tensor,
    generator: torch.Generator,
) -> PatchMemory:
    """Fill the memory of a plan from normal images, or from those to learn from, (n,), in random order."""
    if plan.centres is not None:
        return _centres(plan, view, normals, learn[:_CENTRES_FROM].sort().values, generator)
    config = _memory_config(plan, view)
    rows = torch.tensor(normals.memory)
    if config.window_cells is None:
        return PatchMemory(config, *_random_patches(plan, plan.patches, view, normals, rows, generator))
    few = isinstance(view, WholeView) and len(rows) <= ALL_IN_MEMORY
    most = len(rows) if few else _most_images(plan, view)
    if len(learn) and len(rows) > most:
        # Which images enter the memory may not depend on the images of the threshold.
        rows = learn[:most].sort().values
    return PatchMemory(config, *_sheets(view, normals, rows, plan.copies))


def _centres(
    plan: MemberPlan,
    view: WholeView | RegisteredView,
    normals: Normals,
    rows: Tensor,
    generator: torch.Generator,
) -> PatchMemory:
    """Fill a memory with centres of the patches of images, (n,)."""
    config, count = _memory_config(plan, view), plan.centres or 1
    if config.window_cells is None:
        patches, _ = _random_patches(plan, count * PATCHES_PER_CENTRE, view, normals, rows, generator)
        centres, chosen = centres_of(patches, config, count, generator), None
    else:
        sheets, _ = _sheets(view, normals, rows, plan.copies)
        centres, chosen = centres_by_site(sheets, config, count, generator)
        config = config.model_copy(update={"chosen_patches": chosen.shape[1]})
    return PatchMemory(config, centres, torch.full((len(centres),), _MIXED), chosen)


def _without_others(memory: PatchMemory, normals: Normals) -> PatchMemory:
    """The memory without images that set the threshold: what is learned from distances to it may not depend on them."""
    known = torch.isin(memory.groups, torch.tensor([_MIXED, *normals.learn]))
    return memory if bool(known.all()) else PatchMemory(memory.config, memory.sheets[known], memory.groups[known])


def _most_images(plan: MemberPlan, view: WholeView | RegisteredView) -> int:
    """Largest number of images in a memory that compares whole sheets."""
    sheets = view.parts * number_of_copies(view, plan.copies)
    return max(1, min(plan.sheets, _TABLE_BYTES // _bytes_of_a_sheet(plan, view)) // sheets)


def _bytes_of_a_sheet(plan: MemberPlan, view: WholeView | RegisteredView) -> int:
    """Size of all patches of a sheet in float32."""
    channels, height, width = view.shape
    return 4 * height * width * channels * plan.patch_cells**2


def is_grey(images: Tensor) -> bool:
    """Whether images, (n, 3, h, w) float in [0, 1], have no colour."""
    return float((images.amax(1) - images.amin(1)).mean()) < _GREY


def _memory_config(plan: MemberPlan, view: WholeView | RegisteredView) -> MemoryConfig:
    channels, height, width = view.shape
    return MemoryConfig(
        height_cells=height,
        width_cells=width,
        channels=3 if channels == 3 else 1,
        patch_cells=plan.patch_cells,
        window_cells=plan.window_cells,
        stride_cells=plan.stride_cells,
        taper=plan.taper,
        gain=plan.gain,
    )


def _sheets(
    view: WholeView | RegisteredView, normals: Normals, rows: Tensor, kinds: Sequence[CopyKind]
) -> tuple[Tensor, Tensor]:
    """Sheets of images, (m, c, H, W) uint8, with all copies that plan and view ask for, and their groups, (m,)."""
    sheets, groups = [], []
    for part in torch.split(rows, _BATCH):
        copies = sheets_with_copies(view, normals.batch(part), kinds, normals.aspect)
        if isinstance(view, RegisteredView):
            copies = view.copies(copies.flatten(0, 1)).flatten(0, 1).view(-1, *copies.shape[1:])
        sheets.append(PatchMemory.quantised(copies.flatten(0, 1)))
        groups.append(normals.groups[part].repeat_interleave(view.parts).repeat(len(copies)))
    return torch.cat(sheets), torch.cat(groups)


def _random_patches(
    plan: MemberPlan,
    count: int,
    view: WholeView | RegisteredView,
    normals: Normals,
    rows: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Patches at random places, the same number of each image, as small sheets, (m, c, k, k), and their groups.

    Neither the places nor the copies depend on the images, so images that are left out in turn stay exchangeable.
    """
    each, side = max(1, count // len(rows)), plan.patch_cells
    shifts: tuple[CopyKind, ...] = ("shifted",) if "shifted" in plan.copies else ()
    sheets, groups = [], []
    for row in rows:
        cells = PatchMemory.quantised(sheets_with_copies(view, normals.batch(row[None]), shifts))
        cut = cells.unfold(3, side, 1).unfold(4, side, 1)  # (copies, parts, c, places down, places across, k, k)
        copies, _, _, down, across = cut.shape[:5]
        for part in range(view.parts):
            place = torch.randint(copies * down * across, (each,), generator=generator)
            found = cut[place // (down * across), part, :, place // across % down, place % across]
            sheets.append(turned_at_random(found, plan.copies, generator))
            groups.append(normals.groups[row].expand(each))
    return torch.cat(sheets), torch.cat(groups)


def leave_one_out(
    member: ClosedFormMember, normals: Normals, rows: Tensor, advance: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Distances of images to the memory without themselves and their copies, (m, 1, sites down, sites across)."""
    found = []
    with torch.no_grad():
        for part in torch.split(rows, _BATCH):
            found.append(member.distances(normals.batch(part), normals.groups[part]))
            advance(len(part))
    return torch.cat(found)


def groups_of(images: Tensor) -> Tensor:
    """Give equal images the same number: that of the first of them.

    A copy of an image in the memory would make its leave-one-out distance 0. Images are compared by their cells.

    Args:
        images: Images, (n, 3, h, w), float in [0, 1] or uint8.

    Returns:
        Numbers, (n,) int64.

    Example:
        >>> images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        >>> images[1] = 9
        >>> groups_of(images)
        tensor([0, 1, 0])
    """
    seen: dict[bytes, int] = {}
    groups = []
    for index, image in enumerate(images):
        values = image[None].float() / 255 if image.dtype == torch.uint8 else image[None]
        cells = PatchMemory.quantised(resize(values, 64))
        groups.append(seen.setdefault(cells.numpy().tobytes(), index))
    return torch.tensor(groups)
