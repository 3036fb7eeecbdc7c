"""Registration: find each part of a product by its moments and cut it out in the same pose.

How a part is found, in an image resized to a square whose pixels are averaged over a few of them:

1. Weight of a pixel: ``clip((|a - background| - low) / (high - low), 0, 1)``, the largest difference over the channels.
   The background is one fixed image. Each part has a region of the frame, and only weights inside count for it.
2. Turn: direction of the long principal axis of the weights, rounded to a lattice of angles.
3. Position: centroid in the frame that is turned by that lattice angle, rounded to whole cells.
4. End: where parts lie in any direction, the sign of a third moment about that position turns the wider end to the same
   side.
5. Sheet: cells around the position in the turned frame. A cell is the mean over its own area. What lies outside the
   image, or in the region of another part, is replaced by the mean colour along the border of the image nearby.

Poses lie on a lattice, so a perturbation within a radius can cause finitely many of them:
:mod:`advrad.detectors.registration_bounds` lists them, and the bounds of a score are taken over all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.onnx import is_in_onnx_export

from advrad.data.resize_norm import resize_norm, resize_terms
from advrad.detectors.registration_bounds import Pose
from advrad.detectors.registration_config import RegisteredConfig
from advrad.detectors.registration_graph import graph_beyond
from advrad.detectors.registration_moments import across, along
from advrad.detectors.registration_poses import PartFinder, Poses
from advrad.detectors.registration_sheets import CellSampler
from advrad.detectors.views import Norm

__all__ = ["OutsideBounds", "Poses", "RegisteredConfig", "RegisteredView"]

#: Factor that covers the rounding of sums in float64.
_SUMS = 1 + 1e-9
#: A weight so near to the edge of a sheet, in half sides of the square, counts as both inside and outside.
_EDGE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class OutsideBounds:
    """Bounds of what lies outside the sheets of one image.

    Attributes:
        lower: Lower bound of the share of the usual sum of all weights.
        upper: Upper bound of that share.
        least: Lower bound of each weight, (m, m); 0 where a sheet may be.
    """

    lower: float
    upper: float
    least: Tensor


class RegisteredView(PartFinder):
    """View of the parts of a product, each found and cut out in the same pose.

    Args:
        config: Settings.
        background: Background, (1, 3, m, m) with ``m = config.mask_cells``.
        regions: Index of the part to which each weight belongs, (m, m) uint8; None for a single part.

    Example:
        >>> config = RegisteredConfig(size_px=32, cell_px=2, height_cells=6, width_cells=8, low=0.1, high=0.5)
        >>> view = RegisteredView(config, torch.zeros(1, 3, 8, 8))
        >>> image = torch.zeros(1, 3, 32, 32)
        >>> image[:, :, 10:14, 4:12] = 1
        >>> tuple(view.sheets(image).shape), int(view.poses(image).column)
        ((1, 1, 3, 6, 8), -4)
    """

    def __init__(self, config: RegisteredConfig, background: Tensor, regions: Tensor | None = None) -> None:
        super().__init__(config, background, regions)
        self.sampler = CellSampler(config)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sheet."""
        return self.config.channels, self.config.height_cells, self.config.width_cells

    # Sheets

    def sheets(self, images: Tensor) -> Tensor:
        """Turn images into sheets, see :class:`advrad.detectors.views.View`."""
        square = self.square(images)
        return self.sheets_at(square, self.poses(square))

    def sheets_at(self, images: Tensor, poses: Poses) -> Tensor:
        """Cut out the sheets at given poses.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].
            poses: Poses, each (b, parts).

        Returns:
            Sheets, (b, parts, c, H, W), linear in the images.
        """
        square, (_, height, width) = self._channels(images), self.shape
        parts = []
        for part in range(self.parts):
            corner = self._corner(poses.row[:, part], poses.column[:, part])
            angles = self.lattices[part].angle(poses.turn[:, part])
            cells = self.sampler.cells(square, self._inside(part), angles, corner, (height, width))
            parts.append(torch.where(poses.flipped[:, part, None, None, None], cells.flip(-1, -2), cells))
        return torch.stack(parts, 1)

    def describe(self) -> list[str]:
        """Say in plain words how the view finds and cuts out the parts."""
        config = self.config
        count = "one part" if self.parts == 1 else f"{self.parts} parts, each in its own region"
        what = ["position", *(["turn"] if config.turns > 1 else [])]
        what += ["which end is which"] if {part.flip for part in config.parts} & {"reach", "width", "both"} else []
        return [
            f"finds {count} by the outline: {', '.join(what)}",
            f"compares {config.height_cells} x {config.width_cells} cells of {config.cell_px:.2g} px with normal parts",
        ]

    def copies(self, sheets: Tensor) -> Tensor:
        """Add the copies of sheets that the memory needs.

        Args:
            sheets: Sheets of normal images, (n, c, H, W).

        Returns:
            Sheets, (k, n, c, H, W): themselves, and turned by 180 degrees where both ends of a part look alike.
        """
        alike = any(part.flip == "copies" for part in self.config.parts)
        return torch.stack([sheets, sheets.flip(-1, -2)] if alike else [sheets])

    def _channels(self, images: Tensor) -> Tensor:
        square = self.square(images)
        return square.mean(1, keepdim=True) if self.config.channels == 1 else square

    def _corner(self, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column, in cells, of the centre of the first cell of a sheet; multiples of a half."""
        _, height, width = self.shape
        down, over = self.config.step_cells
        return row * down - (height - 1) / 2, column * over - (width - 1) / 2

    def _inside(self, part: int) -> Tensor | None:
        """1 in the region of a part, (size, size); None if there is one part."""
        if self.parts == 1:
            return None
        inside = (self.regions == part).to(self.background.dtype)
        return inside.repeat_interleave(self.config.mask_px, 0).repeat_interleave(self.config.mask_px, 1)

    def back(self, maps: Tensor, poses: Poses) -> Tensor:
        """Put maps of sheets back to where the sheets were cut out.

        Args:
            maps: A value for each cell of each sheet, (b, parts, H, W).
            poses: Poses of the sheets, each (b, parts).

        Returns:
            Maps, (b, 1, size, size): the largest value over the parts; where there is no sheet, the least of the image.
        """
        placed = [self.placed(part, maps[:, part, None], poses) for part in range(self.parts)]
        return torch.maximum(torch.stack(placed).amax(0), maps.amin((1, 2, 3))[:, None, None, None])

    def placed(self, part: int, maps: Tensor, poses: Poses) -> Tensor:
        """Put maps of the sheets of one part back to where they were cut out.

        Args:
            part: Number of the part.
            maps: A value for each cell of each sheet, (b, 1, H, W).
            poses: Poses of all parts, each (b, parts).

        Returns:
            Maps, (b, 1, size, size); minus infinity where the sheet is not.
        """
        turned = torch.where(poses.flipped[:, part, None, None, None], maps.flip(-1, -2), maps)
        corner = self._corner(poses.row[:, part], poses.column[:, part])
        values = self.sampler.back(turned, self.lattices[part].angle(poses.turn[:, part]), corner)
        inside = self._inside(part)
        return values if inside is None else values.masked_fill(inside == 0, -torch.inf)

    @torch.no_grad()
    def boxes(self, images: Tensor) -> Tensor:
        """Find the corners of the sheets in images, for drawings.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Corners in order around each sheet, (b, parts, 4, 2): x and y as shares of width and height of the image,
            outside [0, 1] where a sheet reaches beyond the image.
        """
        poses, (_, height, width) = self.poses(images), self.shape
        unit = self.config.cell_px / (self.config.size_px / 2)
        down = torch.tensor([-0.5, -0.5, 0.5, 0.5], dtype=torch.float64) * height
        over = torch.tensor([-0.5, 0.5, 0.5, -0.5], dtype=torch.float64) * width
        found = []
        for part in range(self.parts):
            angles = self.lattices[part].angle(poses.turn[:, part]).cpu()[:, None]
            v = (poses.row[:, part].cpu()[:, None] * self.config.step_cells[0] + down) * unit
            u = (poses.column[:, part].cpu()[:, None] * self.config.step_cells[1] + over) * unit
            x = (u * angles.cos() - v * angles.sin()) / self.config.scale_x
            y = (u * angles.sin() + v * angles.cos()) / self.config.scale_y
            found.append((torch.stack([x, y], -1) + 1) / 2)
        return torch.stack(found, 1)

    # What lies outside the sheets

    def stray_weights(self, images: Tensor) -> Tensor:
        """Compute the weights that lie outside the sheets: of further parts, of debris, of what broke off.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Weights, (b, m, m), 0 inside the sheets; differentiable in the images, the pose held fixed.
        """
        weights = self.by_part(self.ramp(self.differences(self.square(images))))
        with torch.no_grad():
            poses = self.poses_of(weights)
            beyond = torch.stack([self._beyond(part, poses) for part in range(self.parts)], 1)
        return (weights * beyond).sum(1).view(-1, *self.regions.shape)

    def outside(self, images: Tensor) -> Tensor:
        """Sum the weights that lie outside the sheets, see :meth:`stray_weights`.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Shares, (b,) float64, of the usual sum of all weights; differentiable as the weights are.
        """
        return self.stray_weights(images).double().sum((1, 2)) / self.config.usual_mass

    def _beyond(self, part: int, poses: Poses, by: float = 0.0) -> Tensor:
        """Which weights lie outside the sheet of a part, by a distance in half sides of the square, (b, m * m) bool."""
        _, height, width = self.shape
        down, over = self.config.step_cells
        lattice, basis = self.lattices[part], self.basis.to(poses.turn.device)
        angles = lattice.angle(poses.turn[:, part])
        middle = poses.column[:, part].double() * lattice.column_step, poses.row[:, part].double() * lattice.row_step
        half_width, half_height = width / 2 * lattice.column_step / over, height / 2 * lattice.row_step / down
        if is_in_onnx_export():
            x, y = basis[1:3].float()
            return graph_beyond(angles, middle, (half_width, half_height), x, y)
        u, v = along(angles, middle[0]) @ basis, across(angles, middle[1]) @ basis
        return (u.abs() > half_width + by) | (v.abs() > half_height + by)

    # Bounds under a perturbation

    @torch.no_grad()
    def outside_bounds(
        self, image: Tensor, radius: float, norm: Norm, reached: Sequence[list[Pose]] | None
    ) -> OutsideBounds:
        """Bound :meth:`outside` under every perturbation within a radius.

        Args:
            image: Unperturbed image, (1, 3, h, w).
            radius: Largest norm of the perturbation, >= 0.
            norm: Norm of the perturbation.
            reached: Poses of each part that a perturbation can cause, see :meth:`reachable_poses`; None if any can be.

        Returns:
            Bounds of the share, and of each weight outside the sheets.
        """
        lower = upper = 0.0
        least = torch.zeros(self.basis.shape[1], dtype=torch.float64)
        for part, interval in enumerate(self.intervals(image, radius, norm)):
            if reached is None:
                upper += float(interval.sums(torch.ones(1, len(least), dtype=torch.float64))[1])
                continue
            # Rounding may put a weight on the edge of a sheet on either side of it.
            poses = Poses.listed(reached[part], self.parts)
            surely, perhaps = (self._beyond(part, poses, by) for by in (_EDGE, -_EDGE))
            lower += float(interval.sums(surely.double())[0].min())
            upper += float(interval.sums(perhaps.double())[1].max())
            least += interval.low * surely.all(0)
        usual = self.config.usual_mass
        return OutsideBounds(
            lower=lower / usual / _SUMS, upper=upper / usual * _SUMS, least=least.view(self.regions.shape)
        )

    def l2_norm(self, height_px: int, width_px: int) -> float:
        """Bound the norm of the map from image to sheet at any pose, see :class:`advrad.detectors.views.View`."""
        return resize_norm(height_px, width_px, self.config.size_px) * self._sheet_norm

    def terms(self, height_px: int, width_px: int) -> int:
        """Count the terms of a cell, see :class:`advrad.detectors.views.View`."""
        return 3 + resize_terms((height_px, width_px), self.config.size_px) + self.sampler.terms

    @cached_property
    def _sheet_norm(self) -> float:
        _, height, width = self.shape
        angles = torch.cat([lattice.angle(torch.arange(lattice.turns)) for lattice in self.lattices])
        return self.sampler.l2_norm(sorted(set(angles.tolist())), height * width)

    @torch.no_grad()
    def reachable(self, image: Tensor, radius: float, norm: Norm) -> tuple[Tensor, ...] | None:
        """Cut out the sheets at every pose that a perturbation can cause, see :class:`advrad.detectors.views.View`."""
        poses = self.reachable_poses(image, radius, norm)
        return None if poses is None else self.sheets_of(image, poses)

    def sheets_of(self, image: Tensor, poses: Sequence[list[Pose]]) -> tuple[Tensor, ...]:
        """Cut out the sheets of one image at several poses.

        Args:
            image: Image, (1, 3, h, w).
            poses: Poses of each part.

        Returns:
            Sheets of each part, (poses, c, H, W).
        """
        square = self._channels(image)
        return tuple(self._sheets_of(square, part, poses[part]) for part in range(self.parts))

    def shifts(self, part: int, poses: list[Pose], rows: list[int], columns: list[int]) -> Tensor:
        """Compute where the sheet of the first pose shows what the sheets of the other poses show.

        Args:
            part: Number of the part.
            poses: Poses, the first one first.
            rows: Rows of the places that matter, cells.
            columns: Columns of these places, cells.

        Returns:
            Shifts of all places, (poses - 1, rows * columns, 2) int64: rows and columns in cells, rounded.
        """
        of = Poses.listed(poses, 1)
        i, j = torch.meshgrid(
            torch.tensor(rows, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64), indexing="ij"
        )
        _, height, width = self.shape
        top, left = (values.cpu() for values in self._corner(of.row, of.column))  # (poses, 1)
        angle = self.lattices[part].angle(of.turn)
        sign = 1 - 2 * of.flipped.double()
        # A turned sheet shows the frame from its other end. Both ends are alike in the middle of the sheet.
        v = (i.flatten() - (height - 1) / 2) * sign + top + (height - 1) / 2
        u = (j.flatten() - (width - 1) / 2) * sign + left + (width - 1) / 2
        turn = angle - angle[0]
        u_first, v_first = u * turn.cos() - v * turn.sin(), u * turn.sin() + v * turn.cos()
        row = (v_first - top[0] - (height - 1) / 2) * sign[0] + (height - 1) / 2
        column = (u_first - left[0] - (width - 1) / 2) * sign[0] + (width - 1) / 2
        return torch.stack([row - i.flatten(), column - j.flatten()], -1)[1:].round().long()

    def _sheets_of(self, square: Tensor, part: int, poses: list[Pose]) -> Tensor:
        """Sheets of one part at several poses, (poses, c, H, W); poses of one angle are cut from one larger sheet."""
        _, height, width = self.shape
        down, over = self.config.step_cells
        inside, sheets = self._inside(part), {}
        for turn in {pose.turn for pose in poses}:
            same = [pose for pose in poses if pose.turn == turn]
            top, left = min(pose.row for pose in same), min(pose.column for pose in same)
            rows, columns = max(pose.row for pose in same) - top, max(pose.column for pose in same) - left
            angle = self.lattices[part].angle(torch.tensor([turn], device=square.device))
            first = torch.tensor([top, left], device=square.device)[:, None]
            corner = self._corner(first[0], first[1])
            shape = height + rows * down, width + columns * over
            large = self.sampler.cells(square, inside, angle, corner, shape)[0]
            for pose in same:
                y, x = (pose.row - top) * down, (pose.column - left) * over
                cells = large[:, y : y + height, x : x + width]
                sheets[pose] = cells.flip(-1, -2) if pose.flipped else cells
        return torch.stack([sheets[pose] for pose in poses])
