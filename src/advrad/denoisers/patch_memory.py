"""Distances from the patches of an image to the patches of normal images, with bounds that hold for every perturbation.

An image is shrunk to cells by averaging. At each site, a square of ``patch_cells`` x ``patch_cells`` cells is a patch
``p``. Its distance to the memory is

    S = min over memory patches m of sqrt(sum_j w_j (p_j - m_j)^2),    w_j >= 0, sum_j w_j = 1,

where the memory patches of a site are those of normal images within a window of sites around it, or those of all sites.
With a gain, a memory patch stands for the whole segment ``{g m : 1 - gain <= g <= 1 + gain}``.

A perturbation of the image by at most eps in every pixel changes every cell by at most eps, because cells are averages,
so it changes ``S`` by at most eps. :meth:`PatchMemory.bounds` computes tighter bounds for each patch.

Source: the optimal denoiser of an empirical distribution, patch by patch (Kamb and Ganguli, arXiv 2412.20292); the
limit of vanishing noise is the distance to the nearest patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.data.resize_norm import ROUNDING, resize_norm
from advrad.data.transforms import resize
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_bounds import distance, highest, lowest
from advrad.errors import DataError

Norm = Literal["linf", "l2"]

#: Memory patches per site and offset that are compared exactly; the others are bounded by the last of these.
_PER_OFFSET = 4
#: Memory patches per site whose bounds are computed exactly.
_REFINED = 8


@dataclass(frozen=True, slots=True)
class PatchDistances:
    """Distances of the patches of b images to the memory.

    Attributes:
        nearest: Distance to the nearest memory patch, (b, 1, sites, sites).
        lower: What no perturbation within the radius can make it fall below, same shape.
        upper: What no perturbation within the radius can make it exceed, same shape.
    """

    nearest: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The nearest memory patches of every patch, by squared distances in float32.

    Attributes:
        patches: The patches themselves, (b, L, k, d), times the root of the weights.
        rest: Squared distance below which no other memory patch was found, (b, L).
        error: Largest error of the squared distances that were compared, (b, L).
    """

    patches: Tensor
    rest: Tensor
    error: Tensor


class PatchMemory(nn.Module):
    """The patches of normal images, and distances to them.

    Args:
        config: Shape of the patches.
        images: Cells of normal images times 255, (n, 3, cells, cells) uint8, as :meth:`quantised` makes them.
        groups: Number of the image that each is a copy of, (n,) int64; copies are left out together.
    """

    images: Tensor
    groups: Tensor
    _roots: Tensor

    def __init__(self, config: MemoryConfig, images: Tensor, groups: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("images", images)
        self.register_buffer("groups", groups)
        roots = config.weights().sqrt().float()
        self.register_buffer("_roots", roots, persistent=False)
        self._table: _Table | None = None

    def cells(self, images: Tensor) -> Tensor:
        """Average images, (b, 3, h, w) float in [0, 1], to cells, (b, 3, cells, cells). All weights are >= 0."""
        return F.avg_pool2d(resize(images, self.config.size_px), self.config.cell_px)

    @staticmethod
    def quantised(cells: Tensor) -> Tensor:
        """Round cells, float in [0, 1], to what the memory stores, uint8."""
        return (cells * 255).round().clamp(0, 255).to(torch.uint8)

    def patches(self, cells: Tensor) -> Tensor:
        """Cut cells, (b, 3, cells, cells), into patches, (b, L, d), times the roots of the weights."""
        return F.unfold(cells, self.config.patch_cells).mT * self._roots.to(cells)

    def nearest(self, images: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Compute the distance of every patch to the memory.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].
            exclude: Group to leave out of the memory for each image, (b,) int64; None leaves out none.

        Returns:
            Distances, (b, 1, sites, sites), differentiable in ``images``. Each changes by at most eps if no pixel
            changes by more than eps.
        """
        self._check(exclude)
        patches = self.patches(self.cells(images))
        with torch.no_grad():
            candidates = self._candidates(patches.detach(), exclude)
        return self._map(distance(patches, candidates.patches, self.config.gain))

    def bounds(self, images: Tensor, eps: float, exclude: Tensor | None = None) -> PatchDistances:
        """Bound the distances under every perturbation of at most eps in each pixel.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].
            eps: Radius, linf, >= 0, in [0, 1] pixel units of the images as given.
            exclude: As in :meth:`nearest`.

        Returns:
            Distances and bounds. For the averaged image and gain 0 they are attained, up to rounding, except that
            ``lower`` may be lower where many memory patches are about equally near.
        """
        self._check(exclude)
        with torch.no_grad():
            patches = self.patches(self.cells(images))
            candidates = self._candidates(patches, exclude)
            gain, roots = self.config.gain, self._roots
            nearest = distance(patches, candidates.patches, gain)
            # A perturbation makes a patch at most eps longer, and so the error of what is compared.
            error = candidates.error + 2 * self._unit * eps * (2 * (candidates.error / self._unit).sqrt() + eps)
            rest = (candidates.rest - error).clamp_min(0).sqrt() - eps
            lower = torch.minimum(lowest(patches, candidates.patches, gain, eps * roots), rest)
            # The plain bound; the true distance may be less than the computed one by the error.
            plain = (nearest.square() - 2 * error).clamp_min(0).sqrt() - eps
            lower = torch.maximum(lower, plain)
            upper = torch.minimum(highest(patches, candidates.patches, gain, eps * roots), nearest + eps)
            # After a perturbation, a memory patch may be overlooked that is nearer by the error.
            upper = (upper.square() + 2 * error).sqrt()
            slack = 4 * _relative_error(self._terms(*images.shape[2:])) * (1 + nearest)
            return PatchDistances(self._map(nearest), self._map((lower - slack).clamp_min(0)), self._map(upper + slack))

    def _check(self, exclude: Tensor | None) -> None:
        """Refuse to leave out all images.

        Raises:
            DataError: An image would be compared with nothing.
        """
        if exclude is not None and any(bool((self.groups == group).all()) for group in exclude):
            raise DataError(
                "the memory holds copies of one image only, so it cannot be left out; give more normal images"
            )

    @property
    def _unit(self) -> float:
        """Largest relative error of a float32 sum of products as long as a patch."""
        return _relative_error(len(self._roots))

    def _terms(self, height_px: int, width_px: int) -> int:
        """Largest number of terms that are summed from the pixels of an image to a distance."""
        config = self.config
        filtered = sum(2 * math.ceil(max(1.0, side / config.size_px)) + 2 for side in (height_px, width_px))
        return filtered + config.cell_px**2 + len(self._roots)

    def l2_norm(self, height_px: int, width_px: int) -> float:
        """Bound the change of a distance per unit of l2 length of a perturbation.

        Cells do not overlap, so averaging ``cell_px`` x ``cell_px`` pixels shortens a change by ``cell_px``; a patch
        counts a value by at most the largest root of the weights.

        Args:
            height_px: Height of the image as given.
            width_px: Width of the image as given.
        """
        config = self.config
        resizing = resize_norm(height_px, width_px, config.size_px)
        return math.sqrt(float(config.weights().max())) / config.cell_px * resizing * ROUNDING

    def _map(self, values: Tensor) -> Tensor:
        return values.reshape(-1, 1, self.config.sites, self.config.sites)

    def _candidates(self, patches: Tensor, exclude: Tensor | None) -> _Candidates:
        if self._table is None:
            self._table = _Table.of(self)
        parts = []
        for row in range(len(patches)):
            group = None if exclude is None else int(exclude[row])
            keep = None if group is None else self.groups != group
            search = self._everywhere if self.config.window_cells is None else self._around
            parts.append(search(patches[row], self._table, keep))
        patches_, rest, error = zip(*((p.patches, p.rest, p.error) for p in parts), strict=True)
        return _Candidates(torch.stack(patches_), torch.stack(rest), torch.stack(error))

    def _around(self, patches: Tensor, table: _Table, keep: Tensor | None) -> _Candidates:
        """Find the nearest memory patches of an image within the window of each site; ``patches`` (L, d)."""
        neighbours = table.neighbours
        count, d = patches.shape
        padded = torch.cat([patches, patches.new_zeros(1, d)])
        # (L, d, o): every patch of the image next to the memory of every site.
        around = padded[neighbours].mT
        inside = neighbours < count
        squared, error = table.squared_distances(around, self.config.gain)  # (L, n, o), (L, o)
        if keep is not None:
            squared[:, ~keep] = torch.inf
        near = min(_PER_OFFSET, squared.shape[1])
        values, images = squared.topk(near, dim=1, largest=False)  # (L, near, o)
        values = torch.where(inside[:, None], values, torch.inf)
        # Turn round: for each site of the image, the memory sites around it, offset by offset.
        back = table.memory_sites  # (L, o)
        offsets = torch.arange(back.shape[1], device=back.device)
        found = torch.where((back < count)[:, None], values[back.clamp_max(count - 1), :, offsets].mT, torch.inf)
        chosen = images[back.clamp_max(count - 1), :, offsets].mT  # (L, near, o)
        sites = back.clamp_max(count - 1)[:, None].expand_as(chosen)
        flat = found.flatten(1)
        order, rest = _nearest_of(flat)
        if near < squared.shape[1]:  # what was not listed lies beyond the last that was listed at its offset
            rest = torch.minimum(rest, found[:, -1].amin(1))
        memory = table.patches[sites.flatten(1).gather(1, order), chosen.flatten(1).gather(1, order)]
        largest = torch.where(back < count, error[back.clamp_max(count - 1), offsets], 0).amax(1)
        return _Candidates(memory, rest, largest)

    def _everywhere(self, patches: Tensor, table: _Table, keep: Tensor | None) -> _Candidates:
        """Find the nearest memory patches of an image among all sites; ``patches`` (L, d)."""
        memory = table.patches[0]
        found, rests, errors = [], [], []
        for part in torch.split(patches, 512):
            compared, error = table.squared_distances(part.mT[None], self.config.gain)
            squared = compared[0].mT  # (512, n)
            if keep is not None:
                squared[:, ~keep[table.image_of]] = torch.inf
            order, rest = _nearest_of(squared)
            found.append(memory[order])
            rests.append(rest)
            errors.append(error[0])
        return _Candidates(torch.cat(found), torch.cat(rests), torch.cat(errors))


def _nearest_of(squared: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the memory patches that are refined.

    Args:
        squared: Squared distances, (L, c); infinite where there is no memory patch.

    Returns:
        Indices of the nearest, (L, k); the first again in place of one that does not exist. And the least squared
        distance of the others, (L,), infinite if there are none.
    """
    count = squared.shape[1]
    values, order = squared.topk(min(_REFINED + 1, count), dim=1, largest=False)
    rest = values[:, -1] if count > _REFINED else torch.full_like(values[:, 0], torch.inf)
    values, order = values[:, :_REFINED], order[:, :_REFINED]
    return torch.where(values.isinf(), order[:, :1], order), rest


@dataclass(frozen=True, slots=True)
class _Table:
    """The memory as patches, ready for matrix products.

    Attributes:
        patches: Patches by site, (L, n, d), or (1, n, d) where all sites are compared; times the root of the weights.
        middle: Mean patch of each site, (L, d). Differences from it are small, so products of them lose few digits.
        centred: ``patches - middle``.
        squares: Squared norm of ``centred``, (L, n).
        neighbours: Sites of an image that are compared with the memory of a site, (L, o); L stands for none.
        memory_sites: Sites of the memory around a site of an image, (L, o), in the same order; L stands for none.
        image_of: Image of each patch, (n,).
    """

    patches: Tensor
    middle: Tensor
    centred: Tensor
    squares: Tensor
    neighbours: Tensor
    memory_sites: Tensor
    image_of: Tensor

    @classmethod
    def of(cls, memory: PatchMemory) -> _Table:
        """Cut the images of a memory into patches."""
        config = memory.config
        patches = memory.patches(memory.images.float() / 255)  # (n, L, d)
        count = len(patches)
        if config.window_cells is None:
            image_of = torch.arange(count, device=patches.device).repeat_interleave(patches.shape[1])
            patches = patches.flatten(0, 1)[None]
            neighbours = memory_sites = torch.zeros(1, 0, dtype=torch.long)
        else:
            image_of = torch.arange(count, device=patches.device)
            patches = patches.transpose(0, 1).contiguous()
            neighbours, memory_sites = _offsets(config.sites, config.window_cells)
        middle = patches.mean(1)
        centred = patches - middle[:, None]
        squares = centred.square().sum(2)
        to = patches.device
        return cls(patches, middle, centred, squares, neighbours.to(to), memory_sites.to(to), image_of)

    def squared_distances(self, patches: Tensor, gain: float) -> tuple[Tensor, Tensor]:
        """Compare patches, (L, d, o), with all memory patches of their site.

        Returns:
            Squared distances, (L, n, o), and the largest error of each in float32, (L, o).
        """
        queries = patches - self.middle[:, :, None]
        products = torch.bmm(self.centred, queries)
        own = queries.square().sum(1)[:, None]
        squares = self.squares[:, :, None]
        longest = self.squares.amax(1)[:, None].sqrt()
        if gain == 0:
            size = own[:, 0].sqrt() + longest
            return own + squares - 2 * products, 2 * _relative_error(queries.shape[1]) * size * size
        # |q - g m|^2 is least at g = q m / m m. With the middle c of the site, q = c + q' and m = c + m', it is
        # |q' - g m' + (1 - g) c|^2, whose terms are small.
        middle = self.middle[:, :, None]
        middle_square = middle.square().sum(1)[:, None]
        along = (self.centred * self.middle[:, None]).sum(2)[:, :, None]
        across = (queries * middle).sum(1)[:, None]
        cross = products + along + across + middle_square
        best = (cross / (squares + 2 * along + middle_square).clamp_min(1e-12)).clamp(1 - gain, 1 + gain)
        less = 1 - best
        found = own + best * best * squares + less * less * middle_square
        found = found + 2 * (less * across - best * products - best * less * along)
        size = own[:, 0].sqrt() + (1 + gain) * longest + gain * middle_square[:, 0].sqrt()
        return found, 2 * _relative_error(queries.shape[1]) * size * size


def _offsets(sites: int, window: int) -> tuple[Tensor, Tensor]:
    """For each site of the memory the sites of an image within the window, and the other way round."""
    row, column = torch.meshgrid(torch.arange(sites), torch.arange(sites), indexing="ij")
    ahead: list[Tensor] = []
    behind: list[Tensor] = []
    for down in range(-window, window + 1):
        for across in range(-window, window + 1):
            for sign, found in ((1, ahead), (-1, behind)):
                r, c = row + sign * down, column + sign * across
                inside = (r >= 0) & (r < sites) & (c >= 0) & (c < sites)
                found.append(torch.where(inside, r * sites + c, sites * sites).flatten())
    return torch.stack(ahead, 1), torch.stack(behind, 1)


def _relative_error(terms: int) -> float:
    """Largest relative error of a float32 sum of so many products (Higham: n u / (1 - n u), u = 2^-24)."""
    unit = (terms + 4) * 2.0**-24
    return unit / (1 - unit)
