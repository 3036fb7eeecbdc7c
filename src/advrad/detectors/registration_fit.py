"""Learn how to find the parts of a product from its normal images."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.data.transforms import resize
from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_config import PartConfig, RegisteredConfig
from advrad.detectors.registration_moments import across, along, cube, principal_axes, product, wedge
from advrad.errors import ConfigError
from advrad.utils.config import Config

#: Images that are looked at; more change nothing.
_IMAGES = 200
#: Images on which settings of the weights are compared.
_COMPARED = 12
#: A median pixel further from the colour of the border than this shows a part, not the background.
_SAME_COLOUR = 0.1
#: Settings may cost this much more poses than the best, as a logarithm.
_COST = 0.35
#: Largest share of the image that the parts may cover.
_LARGEST_SHARE = 0.7
#: Least difference between the typical foreground and the threshold that separates it from the background.
_LEAST_CONTRAST = 0.08
#: Least share of the variance of the differences that separating foreground and background explains.
_LEAST_SEPARATION = 0.7
#: Least skewness along the long axis that tells both ends of a part apart.
_LEAST_SKEWNESS = 0.1
#: How often both moments must agree on the end of a part to be added, as a mean of signs: 0.98 is 99 of 100 times.
_AGREEMENT = 0.98
#: Largest standard deviation of the foreground of normal images, as a share of its mean.
_LARGEST_SPREAD = 0.35


class RegistrationOptions(Config):
    """What is set by hand; None is learned.

    Attributes:
        size_px: Side of the square to which images are resized.
        cell_px: Side of a cell, in pixels of the longer side of the scene.
        channels: Values of a cell: 3 for colour, 1 for grey.
        turn: Whether the product turns.
        step_cells: Distance of neighbouring positions on the lattice, down and across, cells.
        margin_cells: Cells on each side between the parts of normal images and the edge of a sheet.
        radius: Perturbation under which the settings should allow few poses.
        limit: Largest number of poses of a part that are listed.
    """

    size_px: int = 256
    cell_px: float = 4 / 3
    channels: int | None = None
    turn: bool | None = None
    step_cells: tuple[int, int] | None = None
    margin_cells: int = 4
    radius: float = 2 / 255
    limit: int = 128


@torch.no_grad()
def fit_registration(
    images: Tensor, aspect: float = 1.0, options: RegistrationOptions | None = None
) -> RegisteredView | None:
    """Learn how to find the parts of a product.

    Args:
        images: Normal images, (n, 3, h, w) float in [0, 1].
        aspect: Width of the pictured scene divided by its height.
        options: Settings by hand; None to learn everything.

    Returns:
        The view, or None if nothing stands out from a background: the foreground covers most of the image, differs
        little from its background, or changes its size from image to image.

    Raises:
        ConfigError: There are no images.
    """
    options = options or RegistrationOptions()
    if not len(images):
        raise ConfigError("images: registration needs at least one normal image")
    chosen = images[torch.linspace(0, len(images) - 1, min(len(images), _IMAGES)).round().long()]
    square = torch.cat([resize(part, options.size_px) for part in torch.split(chosen, 16)])
    view = _weighed(square, aspect, options)
    if view is None:
        return None
    weights = torch.cat([view.weights(part) for part in torch.split(square, 16)])
    if not _stable(weights):
        return None
    return _posed(view, square, weights, options)


def _weighed(square: Tensor, aspect: float, options: RegistrationOptions) -> RegisteredView | None:
    """A view with one part and the weights under which a perturbation causes the fewest poses."""
    mask_px = max(options.size_px // 64, 1)
    small = F.avg_pool2d(square, mask_px)
    background = _background(small)
    differences = (small - background).abs().amax(1).flatten()
    split = _split(differences)
    if split is None:
        return None
    # Where the difference of the background ends: shadow and uneven light must have no weight.
    edges = _ring((small - background).abs().amax(1)).flatten()
    noise = min(float(_quantile(edges, 0.9)), split.threshold)
    step_angle = math.pi / 180
    step = 2 * options.cell_px / options.size_px
    tried: list[tuple[float, RegisteredView]] = []
    sample = square[torch.linspace(0, len(square) - 1, min(len(square), _COMPARED)).round().long()]
    for start, end in itertools.product((0.5, 0.75, 1.0, 1.25), (0.25, 0.5, 1.0)):
        low = max(split.threshold * start, noise)
        high = low + max((split.foreground - split.threshold) * end, 0.04)
        if low > (split.threshold + split.foreground) / 2:
            continue
        config = RegisteredConfig(
            size_px=options.size_px,
            aspect=aspect,
            channels=1 if _grey(square, options) else 3,
            cell_px=options.cell_px,
            height_cells=1,
            width_cells=1,
            mask_px=mask_px,
            blur_px=mask_px,
            low=low,
            high=high,
            limit=options.limit,
        )
        view = RegisteredView(config, background)
        cost = float((1 + 2 * _reach(view, sample, options.radius, step, step_angle)).log().sum(1).mean())
        tried.append((cost, view))
    allowed = min(cost for cost, _ in tried) + _COST
    # Of settings that are about as robust, the one with the most foreground: highlights leave fewer holes.
    close = [(view.config.low, cost, place) for place, (cost, view) in enumerate(tried) if cost <= allowed]
    return tried[min(close)[2]][1]


def _grey(square: Tensor, options: RegistrationOptions) -> bool:
    if options.channels is not None:
        return options.channels == 1
    return float((square.amax(1) - square.amin(1)).mean()) < 0.01


def _ring(maps: Tensor) -> Tensor:
    """Values along the border of maps, (..., m, m) to (..., k)."""
    return torch.cat([maps[..., 0, :], maps[..., -1, :], maps[..., 1:-1, 0], maps[..., 1:-1, -1]], -1)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Quantile of any number of values; torch.quantile refuses many."""
    ordered = values.flatten().sort().values
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _background(small: Tensor) -> Tensor:
    """The background, (1, 3, m, m): the median over images where it has the colour of the border, else that colour."""
    colour = _ring(small).transpose(0, 1).flatten(1).median(1).values[:, None, None]
    median = small.median(0).values
    same = (median - colour).abs().amax(0) <= _SAME_COLOUR
    mixed = torch.where(same, median, colour)[None]
    return F.avg_pool2d(mixed, 9, 1, 4, count_include_pad=False)


@dataclass(frozen=True, slots=True)
class _Split:
    """Differences from the background: where the foreground begins, and its median."""

    threshold: float
    foreground: float


def _split(differences: Tensor) -> _Split | None:
    """Separate foreground and background by Otsu's threshold; None if they do not differ enough."""
    counts = torch.histc(differences, 256, 0, 1).double()
    values = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    below, total = counts.cumsum(0), counts.sum()
    above = total - below
    sums = (counts * values).cumsum(0)
    mean_below, mean_above = sums / below.clamp_min(1), (sums[-1] - sums) / above.clamp_min(1)
    between = below * above / total**2 * (mean_below - mean_above) ** 2
    best = int(between.argmax())
    threshold = (best + 1) / 256
    front = differences[differences > threshold]
    variance = float(differences.double().var())
    if not len(front) or float(between[best]) < _LEAST_SEPARATION * variance:
        return None
    split = _Split(threshold, float(front.median()))
    return split if split.foreground - split.threshold >= _LEAST_CONTRAST else None


def _reach(view: RegisteredView, images: Tensor, radius: float, step: float, step_angle: float) -> Tensor:
    """How far a perturbation moves position and angle, (n, 3) lattice steps: to first order, for comparisons only."""
    found = []
    for image in torch.split(images, 1):
        interval = view.intervals(image, radius, "linf")[0]
        x, y, angle, axes = principal_axes(interval.moments[None])
        u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        spreads = interval.spreads(torch.stack([along(angle, u), across(angle, v), product(angle, u, v)], 1))
        scale = torch.stack([axes[0] * 0 + step, axes[0] * 0 + step, (axes[0] - axes[1]).clamp_min(1e-9) * step_angle])
        found.append(spreads[0] / interval.moments[0].clamp_min(1e-9) / scale[:, 0])
    return torch.stack(found)


def _stable(weights: Tensor) -> bool:
    """Whether the foreground covers part of the image only, and as much in every image."""
    masses = weights.mean((1, 2))
    ring = _ring(weights).mean(1)
    if float(masses.mean()) > _LARGEST_SHARE or float(masses.mean()) < 1e-3 or float(ring.median()) > 0.4:
        return False
    return len(masses) < 2 or float(masses.std() / masses.mean()) <= _LARGEST_SPREAD


def _regions(weights: Tensor) -> Tensor:
    """Index of the part to which each weight belongs, (m, m) uint8.

    Parts have their own places if the mean weights fall apart into islands, each with as much foreground in every
    image, and almost no foreground lies where the nearest island changes.
    """
    from scipy.ndimage import distance_transform_edt, label

    mean = weights.mean(0).numpy()
    best = np.zeros(mean.shape, dtype=np.uint8)
    parts = 1
    for level in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        islands, count = label(mean > level * mean.max(), structure=np.ones((3, 3)))
        sizes = np.bincount(islands.ravel())[1:]
        kept = [i + 1 for i in range(count) if sizes[i] >= 0.2 * sizes.max()]
        if len(kept) <= parts or len(kept) > 32:
            continue
        seeds = np.isin(islands, kept)
        nearest = distance_transform_edt(~seeds, return_distances=False, return_indices=True)
        names = np.zeros(count + 1, dtype=np.uint8)
        names[kept] = np.arange(len(kept))
        regions = names[islands[tuple(nearest)]]
        if _separate(weights, torch.from_numpy(regions), len(kept)):
            best, parts = regions, len(kept)
    return torch.from_numpy(best)


def _separate(weights: Tensor, regions: Tensor, parts: int) -> bool:
    """Whether each region holds one part in nearly every image, and hardly anything lies across their borders."""
    masses = torch.stack([(weights * (regions == part)).sum((1, 2)) for part in range(parts)], 1)
    steady = masses.std(0) / masses.mean(0) if len(weights) > 1 else torch.zeros(parts)
    border = torch.zeros_like(regions, dtype=torch.bool)
    border[1:] |= regions[1:] != regions[:-1]
    border[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    crossing = (weights * border).sum((1, 2)) / masses.sum(1).clamp_min(1e-9)
    return float(steady.max()) < _LARGEST_SPREAD and float(_quantile(crossing, 0.95)) < 0.02


def _posed(
    view: RegisteredView, square: Tensor, weights: Tensor, options: RegistrationOptions
) -> RegisteredView | None:
    """Choose parts, lattice and shape of the sheets, the weights given."""
    regions = _regions(weights)
    parts = int(regions.max()) + 1
    alone = torch.stack([weights.flatten(1) * (regions.flatten() == part) for part in range(parts)], 1)
    moments = alone.double() @ view.basis.T
    axes = [principal_axes(moments[:, part]) for part in range(parts)]
    half_length = 2 * max(float(variances[0].sqrt().median()) for *_, variances in axes)  # of a bar: root 3
    step = 2 * options.cell_px / options.size_px
    turns = _turns([part[2] for part in axes], [part[3] for part in axes], half_length / step, options)
    settings = []
    for part in range(parts):
        ends = _direction(moments[:, part]) if turns > 1 else PartConfig()
        least = float(moments[:, part, 0].min()) / 2
        settings.append(ends.model_copy(update={"least_mass": max(least, 1e-3)}))
    config = view.config.model_copy(
        update={
            "turns": turns,
            "parts": tuple(settings),
            "usual_mass": max(float(weights.sum((1, 2)).mean()), 1e-3),
        }
    )
    view = RegisteredView(config, view.background, regions)
    steps = options.step_cells or _steps(view, square, options)
    config = config.model_copy(update={"step_cells": steps})
    height, width = _extent(RegisteredView(config, view.background, regions), weights, options.margin_cells)
    view = RegisteredView(
        config.model_copy(update={"height_cells": height, "width_cells": width}), view.background, regions
    )
    poses = [view.poses(part) for part in torch.split(square, 16)]
    rows = torch.cat([pose.row for pose in poses]).median(0).values.tolist()
    columns = torch.cat([pose.column for pose in poses]).median(0).values.tolist()
    placed = tuple(
        part.model_copy(update={"row": row, "column": column})
        for part, row, column in zip(settings, rows, columns, strict=True)
    )
    return RegisteredView(view.config.model_copy(update={"parts": placed}), view.background, regions)


def _mean_axis(angle: Tensor) -> tuple[float, Tensor]:
    """Mean direction of axes in radians, and how far each is from it, within a quarter turn."""
    mean = math.atan2(float((2 * angle).sin().mean()), float((2 * angle).cos().mean())) / 2
    return mean, (angle - mean + math.pi / 2) % math.pi - math.pi / 2


def _turns(
    angles: list[Tensor], variances: list[tuple[Tensor, Tensor]], half_length: float, options: RegistrationOptions
) -> int:
    """Lattice angles in half a turn: the end of a part is at most half a cell from its place. 1 if nothing turns."""
    elongated = min(float(_quantile(long / short.clamp_min(1e-12), 0.05)) for long, short in variances)
    if options.turn is False or (options.turn is None and elongated < 1.3):
        return 1
    spread = max(float(_quantile(_mean_axis(angle)[1].abs(), 0.9)) for angle in angles)
    if options.turn is None and spread * half_length < 1:
        return 1
    return int(min(max(round(math.pi * half_length), 60), 360))


def _direction(moments: Tensor) -> PartConfig:
    """Base direction, and how both directions of the axis are told apart, from moments (n, 10)."""
    x, y, angle, (long, short) = principal_axes(moments)
    mean, rest = _mean_axis(angle)
    if float(_quantile(rest.abs(), 0.99)) < math.radians(60):
        return PartConfig(base_deg=math.degrees(mean))
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    mass, long, short = (value.clamp_min(1e-12) for value in (moments[:, 0], long, short))
    reach, width = ((cube(angle, u) * moments).sum(1) / mass, (wedge(angle, u, v) * moments).sum(1) / mass)
    skewness = max(float(_quantile(value.abs(), 0.02)) for value in (reach / long**1.5, width / (long.sqrt() * short)))
    if skewness < _LEAST_SKEWNESS:
        return PartConfig(flip="copies")
    # Where both moments agree on normal images, their sum is trusted: light and shadow rarely mislead both.
    agreement = (reach * width).sign()
    if float(agreement.mean().abs()) > _AGREEMENT:
        balance = float(agreement.median() * reach.abs().median() / width.abs().median())
        return PartConfig(flip="both", balance=balance)
    by_reach, by_width = (float(_quantile(value.abs(), 0.02) / value.abs().median()) for value in (reach, width))
    return PartConfig(flip="reach" if by_reach > by_width else "width")


def _steps(view: RegisteredView, square: Tensor, options: RegistrationOptions) -> tuple[int, int]:
    """Steps of the lattice: two cells in a direction where a perturbation moves the centroid by more than a cell."""
    sample = square[torch.linspace(0, len(square) - 1, min(len(square), _COMPARED)).round().long()]
    step = 2 * options.cell_px / options.size_px
    reach = _reach(view, sample, options.radius, step, 1.0).median(0).values
    return (2 if float(reach[1]) > 1 else 1, 2 if float(reach[0]) > 1 else 1)


def _extent(view: RegisteredView, weights: Tensor, margin: int) -> tuple[int, int]:
    """Height and width, cells, of the smallest sheet that holds the parts of nearly all images, and a margin."""
    config, unit = view.config, 2 * view.config.cell_px / view.config.size_px
    sizes = []
    masses = view.by_part(weights.flatten(1)).double()
    poses = view.poses_of(masses)
    for part, lattice in enumerate(view.lattices):
        alone, angle = masses[:, part], lattice.angle(poses.turn[:, part])
        u = along(angle, poses.column[:, part] * lattice.column_step)[:, :3] @ view.basis[:3]
        v = across(angle, poses.row[:, part] * lattice.row_step)[:, :3] @ view.basis[:3]
        for distance in (v.abs(), u.abs()):
            order = distance.argsort(1)
            mass = alone.gather(1, order).cumsum(1) / alone.sum(1, keepdim=True).clamp_min(1e-12)
            last = (mass < 0.998).sum(1, keepdim=True).clamp_max(order.shape[1] - 1)
            sizes.append(float(_quantile(distance.gather(1, order.gather(1, last)), 0.98)))
    height, width = (
        2 * (math.ceil((max(part) + 0.5 * config.mask_px * unit / config.cell_px) / unit) + margin)
        for part in (sizes[::2], sizes[1::2])
    )
    return height, width
