"""Find the parts of a product in an image, and every pose that a perturbation can give them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx import is_in_onnx_export

from advrad.data.resize_norm import ROUNDING, resize_norm, resize_terms
from advrad.data.transforms import resize
from advrad.denoisers.patch_table import relative_error
from advrad.detectors.registration_bounds import Interval, Pose, reachable_poses
from advrad.detectors.registration_config import RegisteredConfig
from advrad.detectors.registration_graph import graph_pose
from advrad.detectors.registration_moments import across, along, monomials, principal_axes
from advrad.detectors.views import Norm
from advrad.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Poses:
    """Poses of the parts of images, each (b, parts).

    Attributes:
        turn: Index of the lattice angle, int64.
        row: Position across the long axis, lattice steps, int64.
        column: Position along the long axis, lattice steps, int64.
        flipped: Whether the sheet is turned by 180 degrees, bool.
        present: Whether the part was found; the others have their default pose, bool.
    """

    turn: Tensor
    row: Tensor
    column: Tensor
    flipped: Tensor
    present: Tensor

    @classmethod
    def listed(cls, poses: list[Pose], parts: int, device: torch.device | None = None) -> Poses:
        """Turn a list of poses into poses of as many images, the same for all parts."""
        turn, row, column, flipped = (
            torch.tensor(values, device=device)[:, None].expand(-1, parts) for values in zip(*poses, strict=True)
        )
        return cls(turn, row, column, flipped, present=torch.ones_like(flipped))


class PartFinder(nn.Module):
    """Finds the parts of a product by their moments, see :mod:`advrad.detectors.registration`.

    Args:
        config: Settings.
        background: Background, (1, 3, m, m) with ``m = config.mask_cells``.
        regions: Index of the part to which each weight belongs, (m, m) uint8; None for a single part.
    """

    background: Tensor
    regions: Tensor
    basis: Tensor

    def __init__(self, config: RegisteredConfig, background: Tensor, regions: Tensor | None = None) -> None:
        super().__init__()
        side = config.mask_cells
        if regions is None:
            regions = torch.zeros(side, side, dtype=torch.uint8)
        if background.shape != (1, 3, side, side) or regions.shape != (side, side):
            raise ConfigError(
                f"background: expected the shapes (1, 3, {side}, {side}) and ({side}, {side}), "
                f"got {tuple(background.shape)} and {tuple(regions.shape)}"
            )
        self.config = config
        self.lattices = tuple(config.lattice(part) for part in range(len(config.parts)))
        places = (torch.arange(side, dtype=torch.float64) + 0.5) / (side / 2) - 1
        y, x = torch.meshgrid(places * config.scale_y, places * config.scale_x, indexing="ij")
        self.register_buffer("background", background.float())
        self.register_buffer("regions", regions.to(torch.uint8))
        self.register_buffer("basis", monomials(x.flatten(), y.flatten()), persistent=False)

    @property
    def parts(self) -> int:
        """Number of sheets of an image."""
        return len(self.config.parts)

    def square(self, images: Tensor) -> Tensor:
        """Resize images, (b, 3, h, w), to the square on which everything is computed; squares stay as they are."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(f"images: expected (b, 3, h, w), got {tuple(images.shape)}")
        side = self.config.size_px
        return images if images.shape[2:] == (side, side) else resize(images, side)

    def differences(self, square: Tensor) -> Tensor:
        """Compute the largest difference from the background over the channels, (b, m * m)."""
        config = self.config
        margin = (config.blur_px - config.mask_px) // 2
        averaged = F.avg_pool2d(square, config.blur_px, config.mask_px, margin, count_include_pad=False)
        return (averaged - self.background).abs().amax(1).flatten(1)

    def ramp(self, differences: Tensor) -> Tensor:
        """Turn differences from the background into weights in [0, 1]; non-decreasing."""
        return ((differences - self.config.low) / (self.config.high - self.config.low)).clamp(0, 1)

    def weights(self, images: Tensor) -> Tensor:
        """Compute the foreground weights.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Weights, (b, m, m) in [0, 1].
        """
        weights = self.ramp(self.differences(self.square(images)))
        return weights.reshape(len(weights), *self.regions.shape)

    def by_part(self, weights: Tensor) -> Tensor:
        """Split weights, (b, m * m), into those of each part, (b, parts, m * m): 0 outside its region."""
        labels = torch.arange(self.parts, device=weights.device)[:, None]
        return weights[:, None] * (self.regions.flatten() == labels)

    @torch.no_grad()
    def poses(self, images: Tensor) -> Poses:
        """Find the poses of the parts.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].
        """
        return self.poses_of(self.by_part(self.ramp(self.differences(self.square(images)))))

    def poses_of(self, weights: Tensor) -> Poses:
        """Find the poses of parts from their weights, (b, parts, m * m)."""
        if is_in_onnx_export():
            found = [self._graph_pose(part, weights[:, part]) for part in range(self.parts)]
        else:
            moments = weights.double() @ self.basis.T
            found = [self._pose(part, moments[:, part]) for part in range(self.parts)]
        return Poses(*(torch.stack([getattr(pose, name) for pose in found], 1) for name in Poses.__slots__))

    def _pose(self, part: int, moments: Tensor) -> Poses:
        """Poses, each (b,), of a part with moments (b, 10)."""
        lattice = self.lattices[part]
        mass = moments[:, 0].clamp_min(1e-12)
        turn = lattice.nearest(principal_axes(moments)[2])
        angle = lattice.angle(turn)
        zero = torch.zeros_like(angle)
        column = ((along(angle, zero) * moments).sum(1) / mass / lattice.column_step).round()
        row = ((across(angle, zero) * moments).sum(1) / mass / lattice.row_step).round()
        flipped = torch.zeros_like(turn, dtype=torch.bool)
        if lattice.flip:
            ends = lattice.ends(angle, column * lattice.column_step, row * lattice.row_step)
            flipped = (ends * moments).sum(1) < 0
        return self._usual_if_missing(part, moments[:, 0], (turn, row, column, flipped))

    def _graph_pose(self, part: int, weights: Tensor) -> Poses:
        """The same from the weights of the part, (b, m * m), in a form for graphs."""
        x, y = self.basis[1:3].float()
        return self._usual_if_missing(part, weights.sum(1), graph_pose(self.lattices[part], weights, x, y))

    def _usual_if_missing(self, part: int, mass: Tensor, pose: tuple[Tensor, Tensor, Tensor, Tensor]) -> Poses:
        """Poses, each (b,): turn, row, column and whether it is flipped; the default where the part is missing."""
        settings, lattice = self.config.parts[part], self.lattices[part]
        present = mass >= settings.least_mass
        turn, row, column, flipped = pose
        return Poses(
            turn=torch.where(present, turn, lattice.turns // 2),
            row=torch.where(present, row.long(), settings.row),
            column=torch.where(present, column.long(), settings.column),
            flipped=flipped & present,
            present=present,
        )

    @torch.no_grad()
    def intervals(self, image: Tensor, radius: float, norm: Norm) -> tuple[Interval, ...]:
        """Compute what a perturbation can make of the weights of each part.

        Args:
            image: Unperturbed image, (1, 3, h, w).
            radius: Largest norm of the perturbation, >= 0.
            norm: Norm of the perturbation.
        """
        config = self.config
        differences = self.differences(self.square(image)).double()
        reach, together, slack = radius, None, self._rounding(image.shape[2], image.shape[3])
        if norm == "l2":
            # Averaging does not lengthen a change, and a weight follows the largest change of three channels.
            reach = radius * resize_norm(image.shape[2], image.shape[3], config.size_px) * self._blur_norm
            together = (reach * ROUNDING + slack * config.mask_cells) / (config.high - config.low)
        reach = reach * ROUNDING + slack
        value, low, high = (
            self.by_part(self.ramp(part))[0] for part in (differences, differences - reach, differences + reach)
        )
        basis, value, low, high = (values.cpu() for values in (self.basis, value, low, high))
        return tuple(Interval(basis, value[i], low[i], high[i], together) for i in range(self.parts))

    def _rounding(self, height_px: int, width_px: int) -> float:
        """Largest rounding of differences in float32, of the image and of the perturbed image together.

        Resizing sums over the pixels below a triangle along each side, averaging over the box; images are in [0, 1].
        """
        terms = resize_terms((height_px, width_px), self.config.size_px)
        return 2 * relative_error(terms + self.config.blur_px**2)

    @cached_property
    def _blur_norm(self) -> float:
        """Upper bound of the l2 norm of averaging over the box."""
        config = self.config
        margin = (config.blur_px - config.mask_px) // 2
        line = torch.eye(config.size_px, dtype=torch.float64)[:, None]
        matrix = F.avg_pool1d(line, config.blur_px, config.mask_px, margin, count_include_pad=False)[:, 0]
        return float(torch.linalg.matrix_norm(matrix, 2)) ** 2 * ROUNDING

    @torch.no_grad()
    def reachable_poses(self, image: Tensor, radius: float, norm: Norm) -> tuple[list[Pose], ...] | None:
        """List every pose of each part that a perturbation can cause, that of the unperturbed image first.

        Args:
            image: Unperturbed image, (1, 3, h, w).
            radius: Largest norm of the perturbation, >= 0.
            norm: Norm of the perturbation.

        Returns:
            Poses of each part; None if a part has more than ``config.limit``.
        """
        found, here = [], self.poses(image)
        for part, interval in enumerate(self.intervals(image, radius, norm)):
            settings, lattice = self.config.parts[part], self.lattices[part]
            first = Pose(
                turn=int(here.turn[0, part]),
                row=int(here.row[0, part]),
                column=int(here.column[0, part]),
                flipped=bool(here.flipped[0, part]),
            )
            default = Pose(lattice.turns // 2, settings.row, settings.column, flipped=False)
            poses = reachable_poses(interval, lattice, settings.least_mass, default, self.config.limit)
            if poses is None:
                return None
            found.append([first, *(pose for pose in poses if pose != first)])
        return tuple(found)
