"""The closed-form detector: distances to the patches of normal images, with bounds that hold under every perturbation.

Nothing is trained. The score of an image is the largest score of its members, see
:mod:`advrad.detectors.closed_form_member`. Bounds of the members give bounds of the score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.data.array_checks import check_images, check_layout
from advrad.data.resize_norm import check_ratio, framed_radius
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.base import DetectorOutput, ScoreBounds, SurrogateLoss
from advrad.detectors.closed_form_config import ClosedFormConfig, MemberConfig
from advrad.detectors.closed_form_member import ClosedFormMember, DistanceRounding
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import load_kind, save_folder, write_card
from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_config import RegisteredConfig
from advrad.detectors.saved import SavedMixin, infer_singly
from advrad.detectors.sticker import sticker_bound
from advrad.detectors.views import WholeConfig, WholeView
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.radii import check_perturbations

__all__ = ["ClosedFormConfig", "ClosedFormDetector", "MemberConfig"]

#: By this and this share lower bounds of maps are lowered: interpolation rounds differently from batch to batch.
_MAP_ROUNDING = 1e-6


class ClosedFormDetector(SavedMixin, nn.Module):
    """Anomaly detector whose robustness can be computed exactly, without randomness.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that supports score bounds and sticker bounds.

    Args:
        config: Configuration.
        members: Members, in the order of ``config.members``.

    Example:
        >>> from advrad.denoisers.memory_config import MemoryConfig
        >>> shape = MemoryConfig(height_cells=4, width_cells=4, patch_cells=3)
        >>> member = MemberConfig(view=WholeConfig(size_px=8, cell_px=2), memory=shape)
        >>> memory = PatchMemory(shape, torch.full((2, 3, 4, 4), 128, dtype=torch.uint8), torch.arange(2))
        >>> zero = torch.zeros(1, 1, 2, 2)
        >>> members = [ClosedFormMember(member, WholeView(member.view), memory, zero, zero)]
        >>> detector = ClosedFormDetector(ClosedFormConfig(members=(member,)), members)
        >>> bounds = detector.score_bounds(torch.ones(1, 3, 8, 8), 0.1, "linf")
        >>> [round(float(part), 2) for part in (bounds.lower, bounds.scores, bounds.upper)]
        [0.4, 0.5, 0.6]
    """

    deterministic = True
    differentiable = True
    size_px = None
    noise_seed = None
    without_threshold = "fit it on more normal images"

    def __init__(self, config: ClosedFormConfig, members: Iterable[ClosedFormMember]) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(members)

    def _members(self) -> Iterator[ClosedFormMember]:
        for member in self.members:
            if isinstance(member, ClosedFormMember):
                yield member

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels. Tensors may have any size."""
        return self.config.image_size_px

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return next(self.buffers()).device

    def update_config(self, **changes: Any) -> None:
        """Replace entries of the configuration, such as ``calibration``."""
        self.config = self.config.model_copy(update=changes)

    def infer(self, images: Tensor, generator: torch.Generator | None = None) -> DetectorOutput:
        """Compute scores and anomaly maps.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            generator: Not used: the score has no randomness.

        Returns:
            Scores, (b,), and maps, (b, 1, size, size) with ``size = image_size_px``. Row i depends on row i only.
            Differentiable in ``images``.
        """
        images = self._framed(images)
        if not len(images):
            return DetectorOutput(images.new_zeros(0), self._no_maps(images))
        scores, maps = zip(*(member.infer(images) for member in self._members()), strict=True)
        return DetectorOutput(torch.stack(scores).amax(0), self._largest(maps))

    def scores(self, images: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Compute scores alone, (b,).

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            exclude: Number of the normal image to leave out of the memory for each image, (b,) int64; for the score
                of a normal image against the others.
        """
        images = self._framed(images)
        return torch.stack([member.scores(images, exclude=exclude) for member in self._members()]).amax(0)

    def score_bounds(
        self,
        images: Tensor,
        radius: float,
        norm: Literal["linf", "l2"],
        exclude: Tensor | None = None,
        rounding: Sequence[DistanceRounding] | None = None,
    ) -> ScoreBounds:
        """Bound the scores under every perturbation within a radius, see :class:`SupportsScoreBounds`.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            radius: Radius, >= 0, in [0, 1] pixel units of the images as given.
            norm: Norm of the perturbation.
            exclude: As in :meth:`scores`.
            rounding: For bounds of another computation of the same detector: what rounding may make of the distances
                of each member. The steps from distances to the score are not covered.

        Returns:
            Scores and their bounds. The upper bound is infinite where a part may be found at too many poses.

        Raises:
            ConfigError: The radius is negative or not a number, or the norm is another one.
            DataError: The images have another shape or type, values that are not finite or outside [0, 1], or too many
                pixels for one of the working image.
        """
        check_perturbations(radius, norm)
        images = check_images(images)
        check_ratio((images.shape[2], images.shape[3]), self.framing.scaled_size(*images.shape[2:]))
        framed = self._framed(images)
        if images.dtype == torch.float64:  # of both images, rounded to float32
            radius = radius + 2.0**-24 * (1 if norm == "linf" else math.sqrt(images[:1].numel()))
        if self.config.pad:
            radius = framed_radius(images.shape[2], images.shape[3], self.framing, radius, norm)
        images = framed
        rows = []
        for row in range(len(images)):
            left_out = None if exclude is None else exclude[row : row + 1]
            found = [
                member.bounds(images[row : row + 1], radius, norm, left_out, rounding=widening)
                for member, widening in zip(self._members(), rounding or repeat(None), strict=False)
            ]
            rows.append(
                (
                    torch.stack([part.score for part in found]).amax(),
                    torch.stack([part.lower for part in found]).amax(),
                    torch.stack([part.upper for part in found]).amax(),
                    self._largest([part.lower_map for part in found]),
                )
            )
        if not rows:
            nothing = framed.new_zeros(0)
            return ScoreBounds(nothing, nothing, nothing, self._no_maps(framed))
        scores, lower, upper, maps = zip(*rows, strict=True)
        lower_map = torch.cat(maps)
        lower_map = lower_map - _MAP_ROUNDING * (1 + lower_map.abs())
        return ScoreBounds(torch.stack(scores), torch.stack(lower), torch.stack(upper), lower_map)

    def sticker_bounds(self, images: Tensor, side_px: int) -> Tensor:
        """Bound the scores from below, whatever one square shows, see :class:`SupportsStickerBounds`.

        Members that follow a part do not count, because a sticker can move it. Without others, nothing is left.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            side_px: Side of the square, in pixels of the images as given; >= 1.

        Returns:
            Lower bounds of the scores, (b,); minus infinity where nothing is left.

        Raises:
            ConfigError: The side is below 1.
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
        """
        if not side_px >= 1:
            raise ConfigError("must be 1 or more", option="side_px", value=side_px)
        images = check_images(images)
        framed = self._framed(images)
        # A square of an image that is scaled is not a square of the same side any more.
        if framed.shape != images.shape or not len(images):
            return framed.new_full((len(images),), -torch.inf)
        # Image by image, like predictions, so that the distances of patches that are not touched are the very same.
        return torch.cat([self._sticker_bound(image, side_px) for image in torch.split(framed, 1)])

    def _sticker_bound(self, image: Tensor, side_px: int) -> Tensor:
        sites = [member.site_scores(image) for member in self._members()]
        fixed = [part for part in sites if part is not None]
        if not fixed:
            return image.new_full((len(image),), -torch.inf)
        return sticker_bound(fixed, image.shape[2], image.shape[3], side_px)

    def _framed(self, images: Tensor) -> Tensor:
        """Images that are padded if the detector pads; otherwise as they are, because each member resizes them."""
        check_layout(images)
        images = images.float()
        return self.framing.apply(images) if self.config.pad else images

    def _no_maps(self, images: Tensor) -> Tensor:
        return images.new_zeros(0, 1, self.image_size_px, self.image_size_px)

    def _largest(self, maps: Iterable[Tensor]) -> Tensor:
        """The largest of several maps, (b, 1, h, w) each, at the size of the images."""
        size = (self.image_size_px, self.image_size_px)
        resized = [part if part.shape[2:] == size else F.interpolate(part, size=size, mode="bilinear") for part in maps]
        return torch.stack(resized).amax(0)

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow: means of the largest distances, and of all of them."""
        shares = (0.003, 0.03, 1.0)
        return {f"top {share:g}": SurrogateLoss(partial(self._pooled_at, share), "surrogate") for share in shares}

    def _pooled_at(self, share: float, images: Tensor, generator: torch.Generator) -> Tensor:
        images = self._framed(images)
        return torch.stack([member.scores(images, share) for member in self._members()]).amax(0)

    def predict_batch(self, images: Tensor) -> DetectorOutput:
        """Compute scores and anomaly maps without gradients.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Scores and maps on the CPU, float32; the same for any batch size.

        Raises:
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
        """
        return infer_singly(self.infer, images, self.device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder: ``config.json``, the model card, and ``model.safetensors`` with the normal images.

        The normal images are stored as cells, 8 bits each.

        Args:
            folder: Folder, made if missing; a model in it is replaced.

        Raises:
            OutputError: The folder holds files that advrad did not write, or cannot be written.
        """
        save_folder(Path(folder), self.config.model_dump(mode="json"), dict(self.state_dict()))
        write_card(Path(folder), render(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ClosedFormDetector:
        """Load a model folder that :meth:`save_pretrained` wrote.

        Args:
            folder: Model folder.

        Raises:
            CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
        """
        values, tensors, source = load_kind(Path(folder), "closed_form", "a closed-form detector")
        return cls.assemble(ClosedFormConfig.parse(values, source), tensors, source)

    @classmethod
    def assemble(cls, config: ClosedFormConfig, tensors: Mapping[str, Tensor], source: str) -> ClosedFormDetector:
        """Build a detector from its configuration and its tensors.

        Args:
            config: Configuration.
            tensors: Tensors by name, as in ``state_dict()``.
            source: Name of their file, for messages.

        Raises:
            CheckpointError: The tensors do not belong to the configuration.
        """
        try:
            members = [_member(part, tensors, f"members.{place}.") for place, part in enumerate(config.members)]
            detector = cls(config, members)
            detector.load_state_dict(dict(tensors))
        except (KeyError, RuntimeError, ConfigError):
            raise CheckpointError(
                f"{source}: the tensors do not belong to this closed-form detector; copy the folder again"
            ) from None
        return detector.eval()


def make_view(
    config: WholeConfig | RegisteredConfig, tensors: Mapping[str, Tensor], prefix: str = ""
) -> WholeView | RegisteredView:
    """Make a view of its settings and the tensors whose names begin with a prefix."""
    if isinstance(config, WholeConfig):
        return WholeView(config)
    return RegisteredView(config, tensors[f"{prefix}background"], tensors[f"{prefix}regions"])


def _member(config: MemberConfig, tensors: Mapping[str, Tensor], prefix: str) -> ClosedFormMember:
    view = make_view(config.view, tensors, f"{prefix}view.")
    chosen = tensors[f"{prefix}memory.chosen"] if config.memory.chosen_patches is not None else None
    memory = PatchMemory(config.memory, tensors[f"{prefix}memory.sheets"], tensors[f"{prefix}memory.groups"], chosen)
    return ClosedFormMember(config, view, memory, tensors[f"{prefix}mean"], tensors[f"{prefix}spread"])
