"""How far the score of an exported float32 graph may be from the score in exact arithmetic: a proven bound.

It holds for closed forms that look at whole images. It depends on counts of terms and on sizes only, so it holds for
any order of the sums, with and without fused multiply-add. The proof is in docs/certificates.md, "The rounding of an
export".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from advrad.data.framing import Framing
from advrad.data.images import reduction_px
from advrad.denoisers.distance_groups import PatchGroups
from advrad.denoisers.distance_rows import suits_rows
from advrad.denoisers.patch_memory import PatchMemory
from advrad.denoisers.patch_table import PatchTable
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.exported_config import RoundingRecord
from advrad.detectors.loading import KINDS
from advrad.detectors.saved import SavedDetector
from advrad.detectors.scoring import pooled_count
from advrad.detectors.tiled import TiledDetector
from advrad.detectors.views import WholeView

#: Unit roundoff of float32.
_UNIT = 2.0**-24
#: Operations besides the sums themselves, at each stage; more than there are.
_STEPS = 16
#: Pixels of an image for one of the working image, along each side, that a bound for every image allows.
LARGEST_SHRINKING = 40
#: Added to a squared distance, for values that are flushed to zero: far above what 2^-126 and sums of it can do.
_UNDERFLOW = 1e-30
#: Added to norms for their own rounding.
_ROUNDED_NORM = 1e-5
#: Squared size below which a graph does not divide by the size of a memory patch.
_LEAST_SIZE = 1e-12

_OF_PYTORCH = "a certificate is of the PyTorch detector only"


def _gamma(terms: float) -> float:
    """Largest relative error of so many operations in a row (Higham)."""
    return terms * _UNIT / (1 - terms * _UNIT)


@dataclass(frozen=True, slots=True, eq=False)
class MemberRounding:
    """What rounding can make of the distances and of the score of one member.

    Attributes:
        shift: Largest effect on a distance of all rounding before the squared distance, >= 0.
        unit: Relative error of a squared distance, by the size of what is compared.
        floor: Error of a squared distance whatever is compared.
        size: Size of what is compared beyond the distance itself, by site, (1, 1, sites down, sites across) float64.
        centre: Size of the mean distance of normal images, by site.
        origin: Distance at which the score of a site is 0, by site.
        divisor: What a distance from there is divided by until it is a score, by site, > 0.
        pooled: Largest error of pooling and scaling.
        is_maximum: Whether the score is the largest of the sites' scores.
    """

    shift: float
    unit: float
    floor: float
    size: Tensor
    centre: Tensor
    origin: Tensor
    divisor: Tensor
    pooled: float
    is_maximum: bool

    def lower(self, distances: Tensor) -> Tensor:
        """The least that a graph may compute where exact distances are at least these.

        Args:
            distances: Distances, (b, 1, sites down, sites across), >= 0.

        Returns:
            Distances of the same shape, float32. Non-decreasing in each distance.
        """
        moved = (distances.double() - self.shift).clamp_min(0)
        # Whichever memory patch is found, it is not nearer.
        found = moved * (1 - self.unit) - math.sqrt(_UNDERFLOW)
        return _below(found - _gamma(_STEPS) * (found + self.centre))

    def upper(self, distances: Tensor) -> Tensor:
        """The most that a graph may compute where exact distances are at most these.

        Args:
            distances: Distances, (b, 1, sites down, sites across), >= 0.

        Returns:
            Distances of the same shape, float32. Non-decreasing in each distance.
        """
        moved, unit, size = distances.double() + self.shift, self.unit, self.size
        # The search takes a memory patch at x if x^2 - e(x) <= t^2 + e(t), where t is the nearest.
        nearest = moved.square() + unit * (moved + size).square() + 2 * self.floor
        root = (unit**2 * size.square() + (1 - unit) * (unit * size.square() + nearest)).sqrt()
        found = (unit * size + root) / (1 - unit) * (1 + unit) + self.shift
        return -_below(-(found + _gamma(_STEPS) * (found + self.centre)))

    def largest(self, score: float = -math.inf) -> float:
        """Largest difference of the member's score from the exact one.

        Args:
            score: Least exact score of the images that count.
        """
        least = torch.zeros_like(self.size)
        if self.is_maximum:  # only sites with at least this score decide
            least = (self.origin + score * self.divisor).clamp(0, 1)
        # One difference increases with the distance, the other is convex: the ends count.
        ends = (least, torch.ones_like(least))
        worst = torch.stack([torch.maximum(at - self.lower(at), self.upper(at) - at) for at in ends]).amax(0)
        return float((worst / self.divisor).max()) + self.pooled


def _below(values: Tensor) -> Tensor:
    """Values in float32 that are not above these in float64."""
    return (values - 2 * _UNIT * values.abs() - _UNDERFLOW).float()


def member_roundings(detector: ClosedFormDetector | TiledDetector, shrinking: float) -> tuple[MemberRounding, ...]:
    """What rounding can make of each member of a closed form.

    Args:
        detector: Detector for which :func:`rounding_of` proves something.
        shrinking: Pixels of an image for one of the working image, along the side where they are more; at least 1.
    """
    base = detector.base if isinstance(detector, TiledDetector) else detector
    before = 2 * _along_a_side(shrinking) + _STEPS
    if detector.framing.pad:  # the share of padding is 1 less sums of weights, which are rounded, too
        before *= 2
    return tuple(_of_member(member, base.image_size_px, before) for member in _members(base))


def shrinking_of(framing: Framing, height_px: int, width_px: int) -> float:
    """Pixels of an image for one of the working image, along the side where they are more; at least 1.

    Args:
        framing: How images become working images.
        height_px: Height of the image.
        width_px: Width of the image.

    Example:
        >>> shrinking_of(Framing.square(256), 512, 1024)
        4.0
    """
    rows, columns = framing.scaled_size(height_px, width_px)
    # The squares over which a large image is averaged need not divide it.
    beside = reduction_px(height_px, width_px, framing) - 1
    return max(1.0, (height_px + beside) / rows, (width_px + beside) / columns)


def rounding_of(detector: SavedDetector, precision: Literal["float32", "bfloat16", "int8"]) -> RoundingRecord:
    """Say what is proven about the rounding of an export.

    Args:
        detector: Detector that is exported.
        precision: Arithmetic of the export.

    Returns:
        The bound for every image with at most 40 px for one of the detector's, and what holds in words.

    Example:
        Needs a trained model folder.

        >>> rounding_of(load_detector("bottle"), "int8").words  # doctest: +SKIP
        'Nothing is proven about rounding in int8: a certificate is of the PyTorch detector only.'
    """
    if precision != "float32":
        return RoundingRecord(words=f"Nothing is proven about rounding in {precision}: {_OF_PYTORCH}.")
    reason = _unproven(detector)
    if reason is not None or not isinstance(detector, ClosedFormDetector | TiledDetector):
        return RoundingRecord(words=f"Nothing is proven about the rounding of {reason}: {_OF_PYTORCH}.")
    members = member_roundings(detector, LARGEST_SHRINKING)
    bound = max(member.largest() for member in members)
    threshold = -math.inf if detector.threshold is None else detector.threshold
    beyond = max(member.largest(threshold) for member in members)
    words = (
        f"The score of the graph differs from that in exact arithmetic by at most {beyond:.2g} from the threshold on,"
        f" and by at most {bound:.2g} where the image is one of the memory. This is proven for images of up to"
        f" {LARGEST_SHRINKING} px for one of the detector's along each side. 'advrad certify' takes it into account."
    )
    return RoundingRecord(bound=bound, words=words)


def _unproven(detector: SavedDetector) -> str | None:
    """What about a detector leaves its rounding without proof; None if there is a proof."""
    if not isinstance(detector, ClosedFormDetector | TiledDetector):
        return f"{KINDS[detector.config.kind].words}"
    base = detector.base if isinstance(detector, TiledDetector) else detector
    for member in _members(base):
        if not isinstance(member.view, WholeView):
            return "a pose, and parts are found first here"
        weights = member.config.memory.weights()
        if member.config.memory.gain and float(weights[weights > 0].min()) / 255**2 < 2 * _LEAST_SIZE:
            return "patches of so many cells with a gain"
    return None


def _members(detector: ClosedFormDetector) -> list[ClosedFormMember]:
    return [member for member in detector.members if isinstance(member, ClosedFormMember)]


def _along_a_side(shrinking: float) -> float:
    """Operations between a pixel and a resized pixel along one side: the sum, that of the weights, and its squares."""
    return 6 * max(shrinking, 1) + _STEPS


def _of_member(member: ClosedFormMember, working_px: int, before: float) -> MemberRounding:
    """What rounding can make of a member.

    Args:
        member: Member with a view of the whole image.
        working_px: Side of the image that the member is given.
        before: Operations from the pixels to this image.
    """
    view, config = cast(WholeView, member.view).config, member.config
    cells = before + view.cell_px**2 + 3 + _STEPS
    if view.size_px != working_px:
        cells += 2 * _along_a_side(working_px / view.size_px)
    gain, terms = config.memory.gain, _gamma(len(config.memory.weights()) + 2 * _STEPS)
    centred, full = _sizes(member.memory)
    spread = member.spread.double() + config.tolerance
    count = pooled_count(spread.numel(), config.pooling)
    furthest = float((torch.maximum(member.mean.double().abs(), torch.ones_like(spread)) / spread).max())
    return MemberRounding(
        # Cells; then roots, patches of the image and of the memory, which are multiplied with them; and the best gain.
        shift=_gamma(cells) + (1 + gain) * _gamma(_STEPS) + (2 * terms if gain else 0.0),
        unit=(1 + gain) * terms,
        floor=_UNDERFLOW + gain**2 * _LEAST_SIZE,
        size=2 * (centred + gain * full),
        centre=member.mean.double().abs(),
        origin=member.mean.double() + config.location * spread,
        divisor=spread * config.scale,
        # Twice: what the graph computes, and what PyTorch computes of the bounds.
        pooled=2 * _gamma(count + _STEPS) * (furthest + abs(config.location)) / config.scale,
        is_maximum=count == 1,
    )


def _sizes(memory: PatchMemory) -> tuple[Tensor, Tensor]:
    """Largest norms of the memory patches of each site, about the graph's centre and about 0, (1, 1, down, across).

    The centres are those of :mod:`advrad.denoisers.distance_graph`.
    """
    config = memory.config
    shape = (1, 1, *config.sites)
    if memory.chosen is None and config.window_cells is None:  # the only centre is that of the table
        table = memory.table
        norms = table.squares.double().amax(1), _norms_at(table)
        centred, full = (norm[0].clamp_min(0).sqrt().expand(shape) for norm in norms)
    elif memory.chosen is None and suits_rows(config):  # the centre is the mean of the memory patches at one place
        table = memory.table
        norms = table.squares.double().amax(1), _norms_at(table)
        place = table.pairs.clamp_max(table.queries.numel() - 1) // table.queries.shape[1]  # (L, o)
        centred, full = (norm.clamp_min(0).sqrt()[place].amax(1).view(shape) for norm in norms)
    elif memory.chosen is None and config.window_cells is not None:
        groups = PatchGroups.of(config, config.window_cells)
        patches = groups.memory(memory.sheets.contiguous(), config)  # (groups, d, n)
        group = groups.pairs // groups.queries.shape[1]  # (L, o)
        centred, full = (norms[group].amax(1).view(shape) for norms in _longest(patches))
    else:
        patches = memory.read(cast(Tensor, memory.chosen)).mT  # (L, d, k)
        centred, full = (norms.view(shape) for norms in _longest(patches))
    return centred + _ROUNDED_NORM, full + _ROUNDED_NORM


def _norms_at(table: PatchTable) -> Tensor:
    """Largest squared norms of the memory patches of each site of the memory, (S,) float64."""
    return (table.squares.double() + 2 * table.along.double()).amax(1) + table.middle.double().square().sum(1)


def _longest(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Largest norms of patches, (s, d, n), about their mean and about 0, (s,) float64 each."""
    centred = patches - patches.mean(2, keepdim=True)
    return centred.square().sum(1).amax(1).double().sqrt(), patches.square().sum(1).amax(1).double().sqrt()
