"""A member of the closed-form detector: one view of the image, one memory, and bounds of the resulting score.

For each part that the view finds,

    A(x) = pool over sites of (S(x) - mean) / (spread + tolerance),

with S of :mod:`advrad.denoisers.patch_memory`. The member's score is the largest over the parts. Standardising and
pooling are increasing in every S, so bounds of S give bounds of A. A perturbation may also move a registered part to
another pose; the bounds hold at every pose within reach. What lies outside the parts may have a score of its own
(:mod:`advrad.detectors.strays`); the larger of both counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.denoisers.patch_intervals import PatchIntervals
from advrad.denoisers.patch_memory import PatchMemory, sheet_of
from advrad.detectors.closed_form_config import MemberConfig
from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_bounds import Pose
from advrad.detectors.registration_poses import Poses
from advrad.detectors.scoring import pool, pooled_count
from advrad.detectors.sticker import SiteScores, Spans
from advrad.detectors.strays import Strays
from advrad.detectors.views import WholeView
from advrad.errors import ConfigError

Norm = Literal["linf", "l2"]

#: Sites of a sheet whose bounds are computed exactly, at most; and how many of each pose at once.
_EXACT_SITES, _EACH = 128, 4
#: Factor that covers the rounding of norms.
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class MemberBounds:
    """Score of one image with bounds.

    Attributes:
        score: Score, ().
        lower: Lower bound of the score, ().
        upper: Upper bound of the score, (); infinite if the part may be found at too many poses.
        lower_map: Lower bounds of the anomaly map, (1, 1, size, size).
    """

    score: Tensor
    lower: Tensor
    upper: Tensor
    lower_map: Tensor


class DistanceRounding(Protocol):
    """What another computation of the same distances, such as an export, may make of them by rounding."""

    def lower(self, distances: Tensor) -> Tensor:
        """The least that it may compute where exact distances, (b, 1, down, across), are at least these."""

    def upper(self, distances: Tensor) -> Tensor:
        """The most that it may compute where exact distances, (b, 1, down, across), are at most these."""


class ClosedFormMember(nn.Module):
    """One view of the image with its memory.

    Args:
        config: Settings.
        view: View, made with ``config.view``.
        memory: Memory, made with ``config.memory``.
        mean: Mean distance of normal images at each site, (1, 1, sites down, sites across).
        spread: Spread of the distance of normal images at each site, same shape, >= 0.

    Raises:
        ConfigError: The statistics or the sheets have the wrong shape.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        config: MemberConfig,
        view: WholeView | RegisteredView,
        memory: PatchMemory,
        mean: Tensor,
        spread: Tensor,
    ) -> None:
        super().__init__()
        shape = (1, 1, *config.memory.sites)
        if not mean.shape == spread.shape == shape:
            raise ConfigError(
                f"statistics: expected the shape {shape}, got {tuple(mean.shape)} and {tuple(spread.shape)}"
            )
        cells = (config.memory.channels, config.memory.height_cells, config.memory.width_cells)
        if view.shape != cells:
            raise ConfigError(f"memory: expected sheets of shape {view.shape}, as the view makes them, got {cells}")
        self.config = config
        self.view = view
        self.memory = memory
        self.strays: Strays | None = None
        if config.strays is not None and isinstance(view, RegisteredView):
            self.strays = Strays(view, config.strays)
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def standardise(self, distances: Tensor) -> Tensor:
        """Standardise distances, (b, 1, sites down, sites across). Increasing in each."""
        return (distances - self.mean) / (self.spread + self.config.tolerance)

    def pooled(self, standardised: Tensor, share: float | None = None) -> Tensor:
        """Compute scores, (b,), from standardised distances. Non-decreasing in each of them."""
        return self._in_units(pool(standardised, self.config.pooling if share is None else share))

    def _in_units(self, values: Tensor) -> Tensor:
        """Turn what is pooled, or the values of a map, into the units of the score. Increasing."""
        return (values - self.config.location) / self.config.scale

    def distances(self, images: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Compute the distances of all patches to the memory.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].
            exclude: Group to leave out of the memory for each image, (b,) int64; None leaves out none.

        Returns:
            Distances, (b * parts, 1, sites down, sites across), the parts of an image one after another.
        """
        sheets = self.view.sheets(images)
        if exclude is not None:
            exclude = exclude.repeat_interleave(sheets.shape[1])
        return self.memory.nearest(sheets.flatten(0, 1), exclude)

    def scores(self, images: Tensor, share: float | None = None, exclude: Tensor | None = None) -> Tensor:
        """Compute scores, (b,), of images, (b, 3, h, w); ``share`` replaces the pooling and leaves out strays."""
        standardised = self.standardise(self.distances(images, exclude))
        scores = self.pooled(standardised, share).view(len(images), -1).amax(1)
        return self.with_strays(scores, images) if share is None else scores

    def with_strays(self, scores: Tensor, images: Tensor) -> Tensor:
        """Raise scores, (b,), to those of what lies outside the parts in images, (b, 3, h, w)."""
        return scores if self.strays is None else torch.maximum(scores, self.strays.scores(images))

    def infer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores, (b,), and maps, (b, 1, size, size), of images, (b, 3, h, w)."""
        if isinstance(self.view, WholeView):
            standardised = self.standardise(self.distances(images))
            return self.pooled(standardised), self._map(standardised)
        square = self.view.square(images)
        poses = self.view.poses(square)
        standardised = self.standardise(self.memory.nearest(self.view.sheets_at(square, poses).flatten(0, 1)))
        values = sheet_of(self._in_units(standardised), self.config.memory)
        maps = self.view.back(values.view(-1, self.view.parts, *values.shape[2:]), poses)
        scores = self.pooled(standardised).view(-1, self.view.parts).amax(1)
        if self.strays is None:
            return scores, maps
        stray_scores, stray_maps = self.strays.infer(square)
        return torch.maximum(scores, stray_scores), torch.maximum(maps, stray_maps)

    def _map(self, standardised: Tensor) -> Tensor:
        """Anomaly maps of whole images: every cell has the value of the nearest site."""
        size = self.config.view.size_px
        return F.interpolate(
            sheet_of(self._in_units(standardised), self.config.memory), size=(size, size), mode="bilinear"
        )

    @torch.no_grad()
    def bounds(
        self,
        image: Tensor,
        radius: float,
        norm: Norm,
        exclude: Tensor | None = None,
        exact_sites: int = _EXACT_SITES,
        rounding: DistanceRounding | None = None,
    ) -> MemberBounds:
        """Bound the score of an image under every perturbation within a radius.

        Args:
            image: Image, (1, 3, h, w) float in [0, 1].
            radius: Radius, >= 0, in pixel units of the image as given.
            norm: Norm of the perturbation.
            exclude: Group to leave out of the memory, (1,) int64; None leaves out none.
            exact_sites: Largest number of sites with exact bounds; fewer are quicker and looser.
            rounding: Widens the bounds of the distances to those of another computation of them; for a view of the
                whole image.
        """
        poses: tuple[list[Pose], ...] | None = ()
        reached: tuple[Tensor, ...] | None
        if isinstance(self.view, WholeView):
            reached = self.view.reachable(image, radius, norm)
        else:
            poses = self.view.reachable_poses(image, radius, norm)
            reached = None if poses is None else self.view.sheets_of(image, poses)
        if reached is None or poses is None:
            found = self._unbounded(image, exclude)
        else:
            height, width = image.shape[2:]
            terms = self.view.terms(height, width)
            eps, reach = (radius, 0.0) if norm == "linf" else (0.0, radius * self._l2_factor(height, width))
            # The sheets as they are scored: the memory keeps what the search for the score has found.
            own = self.view.sheets(image)[0]
            distances = self.memory.nearest(own, None if exclude is None else exclude.expand(len(own)))
            scores = pool(self.standardise(distances), self.config.pooling)
            lowest = highest = torch.full_like(scores[0], -torch.inf)
            lows: dict[int, Tensor] = {}
            # The largest part counts: those that cannot be it need no exact upper bounds.
            for part in scores.argsort(descending=True).tolist():
                sheets = torch.cat([own[part : part + 1], reached[part][1:]])
                intervals = PatchIntervals(self.memory, sheets, eps, exclude, self._shifts(poses, part), reach, terms)
                if eps or len(sheets) > 1:
                    self._refine(intervals, eps, exact_sites, highest)
                lower, upper = intervals.lower, intervals.upper
                if rounding is not None:
                    lower, upper = rounding.lower(lower), rounding.upper(upper)
                lows[part] = self.standardise(lower)
                lowest = torch.maximum(lowest, pool(lows[part], self.config.pooling).amin())
                highest = torch.maximum(highest, pool(self.standardise(upper), self.config.pooling).amax())
            score, lowest, highest = (self._in_units(value) for value in (scores.amax(), lowest, highest))
            found = MemberBounds(
                score, lowest, highest, self._lower_map(poses, [lows[part] for part in range(len(own))])
            )
        if self.strays is None:
            return found
        strays = self.strays.bounds(image, radius, norm, poses)
        return MemberBounds(
            score=self.with_strays(found.score[None], image)[0],
            lower=torch.maximum(found.lower, strays.lower),
            upper=torch.maximum(found.upper, strays.upper),
            lower_map=torch.maximum(found.lower_map, strays.lower_map),
        )

    def _unbounded(self, image: Tensor, exclude: Tensor | None) -> MemberBounds:
        """Score of an image, and the bounds if its parts can be found at any pose."""
        least = self.standardise(torch.zeros_like(self.mean))
        maps = self._map(torch.full_like(least, float(least.amin())))
        standardised = self.standardise(self.distances(image, exclude))
        nothing = self.pooled(least)[0]
        return MemberBounds(self.pooled(standardised).amax(), nothing, torch.full_like(nothing, torch.inf), maps)

    def _l2_factor(self, height: int, width: int) -> float:
        """Largest change of a distance per unit of l2 length of a perturbation."""
        return math.sqrt(float(self.config.memory.weights().max())) * self.view.l2_norm(height, width) * _ROUNDING

    def _shifts(self, poses: Sequence[list[Pose]], part: int) -> Tensor | None:
        """Where the sheet of the first pose shows what the patches at the other poses show."""
        if isinstance(self.view, WholeView) or len(poses[part]) == 1:
            return None
        memory = self.config.memory
        rows, columns = ([at + memory.patch_cells // 2 for at in places] for places in (memory.rows, memory.columns))
        return self.view.shifts(part, poses[part], rows, columns)

    def _refine(self, found: PatchIntervals, eps: float, exact_sites: int, highest: Tensor) -> None:
        """Make the bounds of a part exact at the sites that may decide those of the score.

        Args:
            found: Bounds of the distances of the part at every pose.
            eps: Largest change of a cell.
            exact_sites: Largest number of sites with exact bounds.
            highest: Upper bound of the score of other parts, (), before it has its units; a lower one of this part does
                not matter.
        """
        left = exact_sites
        while left and len(sites := self._undecided(found, eps, highest)[:left]):
            found.refine(sites)
            left -= len(sites)

    def _undecided(self, found: PatchIntervals, eps: float, highest: Tensor) -> Tensor:
        """Sites whose exact bounds may change the bounds of the score, (t,): some of each pose, largest first."""
        upper, lower, most = (
            self.standardise(values).flatten(1) for values in (found.upper, found.lower, found.upper - eps)
        )
        count = pooled_count(upper.shape[1], self.config.pooling)
        # The score's upper bound is the largest over the poses, and at least that of the refined sites of any pose.
        decided = upper.masked_fill(~found.refined, -torch.inf).topk(count, 1).values.mean(1).amax()
        decided = torch.maximum(decided, highest)
        largest = upper.topk(count, 1).values
        raises = (upper >= torch.maximum(largest[:, -1:], decided)) & (largest.mean(1) > decided)[:, None]
        # Its lower bound is the least over the poses: a site matters that may be among the largest of its pose.
        counts = lower.topk(count, 1).values
        open_ = (most > counts[:, -1:]) & ~found.refined
        settled = counts.mean(1).masked_fill(open_.any(1), torch.inf).amin()
        open_ &= (counts.mean(1) < settled)[:, None]
        open_ |= raises & ~found.refined
        size, order = upper.masked_fill(~open_, -torch.inf).topk(min(_EACH, upper.shape[1]), 1)
        most_first = order.flatten()[size.flatten().argsort(descending=True)]
        sites = dict.fromkeys(most_first[: int((size > -torch.inf).sum())].tolist())
        return torch.tensor(list(sites), dtype=torch.long, device=upper.device)

    def _lower_map(self, poses: Sequence[list[Pose]], low: Sequence[Tensor]) -> Tensor:
        """Lower bounds of the anomaly map: the least over the poses of each part."""
        if isinstance(self.view, WholeView):
            return self._map(low[0])
        maps = []
        # Outside its sheets a map has its least value over all parts.
        least = torch.stack([values.amin() for values in low]).amin()
        for part, (values, of_part) in enumerate(zip(low, poses, strict=True)):
            sheets = sheet_of(self._in_units(values), self.config.memory)
            listed = Poses.listed(of_part, self.view.parts, values.device)
            maps.append(self.view.placed(part, sheets, listed).amin(0, keepdim=True))
        return torch.maximum(torch.stack(maps).amax(0), self._in_units(least))

    def site_scores(self, images: Tensor) -> SiteScores | None:
        """Distances by site for a bound against stickers; None if the view follows parts, which a sticker can move."""
        if not isinstance(self.view, WholeView):
            return None
        view, memory = self.view.config, self.config.memory
        with torch.no_grad():
            values = self.standardise(self.distances(images))
        least = self.standardise(torch.zeros_like(self.mean))
        spans = (
            Spans.of(length, view.size_px, view.cell_px, starts, memory.patch_cells)
            for length, starts in ((images.shape[2], memory.rows), (images.shape[3], memory.columns))
        )
        rows, columns = spans
        return SiteScores(values, least, self.pooled, rows, columns)
