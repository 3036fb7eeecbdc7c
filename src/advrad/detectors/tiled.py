"""A detector of long or large images: the closed form scores overlapping tiles, and the largest score counts.

The image is scaled to the working size, which keeps the aspect ratio of the training images, and cut into square tiles
that cover it. One closed form scores every tile. The anomaly map is put together from those of the tiles; where they
overlap, the larger value counts.

**The threshold.** Neither memory nor statistics hold a tile of the images that set it, so the score is a fixed function
of an image, and the scores of these images and of a new normal image are exchangeable. Their conformal quantile is
exceeded with a probability of at most the false-alarm rate. It counts images, not tiles: tiles of one image are not
exchangeable with those of another.

**Bounds.** A change of the image within a radius changes each tile by no more: the largest change of a pixel of a tile
is at most that of the image, and so is the l2 norm, which sums over fewer pixels. Let ``L_t`` and ``U_t`` bound the
score of tile t. Then ``max_t L_t`` and ``max_t U_t`` bound the score of the image, and the largest lower bound of the
tiles' maps at a pixel bounds the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advrad.data.array_checks import check_images, check_layout
from advrad.data.resize_norm import framed_radius
from advrad.detectors.base import DetectorOutput, ScoreBounds, SurrogateLoss
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_member import DistanceRounding
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import load_kind, save_folder, write_card
from advrad.detectors.saved import SavedMixin, infer_singly
from advrad.detectors.tiled_config import TiledConfig
from advrad.errors import ConfigError
from advrad.utils.radii import check_perturbations


class TiledDetector(SavedMixin, nn.Module):
    """Anomaly detector of long or large images, whose robustness can be computed exactly.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that supports score bounds.

    Args:
        config: Configuration; its ``base`` must describe ``base``.
        base: Closed form that scores the tiles.

    Example:
        Needs a trained model folder.

        >>> detector = TiledDetector.from_pretrained("web")  # doctest: +SKIP
        >>> len(detector.config.corners)  # doctest: +SKIP
        53
    """

    deterministic = True
    differentiable = True
    size_px = None
    noise_seed = None
    without_threshold = "fit it on more normal images"

    def __init__(self, config: TiledConfig, base: ClosedFormDetector) -> None:
        super().__init__()
        self.base = base
        self.config = config.model_copy(update={"base": base.config})

    @property
    def image_size_px(self) -> int:
        """Side of a tile, in pixels of the scaled image."""
        return self.config.image_size_px

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return self.base.device

    def update_config(self, **changes: Any) -> None:
        """Replace entries of the configuration, such as ``calibration``."""
        self.config = self.config.model_copy(update=changes)

    def _working(self, images: Tensor) -> Tensor:
        check_layout(images)
        return self.framing.apply(images.float() if images.element_size() < 4 else images)

    def tiles(self, images: Tensor) -> Iterator[Tensor]:
        """Cut images into tiles.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.

        Yields:
            One tile of each image, (b, 3, size, size), in the order of ``config.corners``.
        """
        side = self.image_size_px
        working = self._working(images)
        for row, column in self.config.corners:
            yield working[:, :, row : row + side, column : column + side]

    def _stitched(self, maps: list[Tensor]) -> Tensor:
        """Maps of the tiles, (b, 1, size, size) each, as one map: the largest value where they overlap."""
        side, config = self.image_size_px, self.config
        whole = maps[0].new_full((len(maps[0]), 1, config.height_px, config.width_px), -torch.inf)
        for (row, column), part in zip(config.corners, maps, strict=True):
            place = (slice(None), slice(None), slice(row, row + side), slice(column, column + side))
            whole[place] = torch.maximum(whole[place].clone(), part)
        return whole

    def infer(self, images: Tensor, generator: torch.Generator | None = None) -> DetectorOutput:
        """Compute scores and anomaly maps.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            generator: Not used: the score has no randomness.

        Returns:
            Scores, (b,), and maps, (b, 1, height_px, width_px). Row i depends on row i only. Differentiable in
            ``images``; the gradient of a score is that of the tile that decides.
        """
        scores, maps = zip(*(self._scored(tile) for tile in self.tiles(images)), strict=True)
        return DetectorOutput(torch.stack(scores).amax(0), self._stitched(list(maps)))

    def _scored(self, tile: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, (b,), and maps of one tile of each image."""

        def compute(tile: Tensor) -> tuple[Tensor, Tensor]:
            found = self.base.infer(tile)
            if found.anomaly_maps is None:
                raise ConfigError("the closed form gives no anomaly maps")
            return found.scores, found.anomaly_maps

        if not (torch.is_grad_enabled() and tile.requires_grad):
            return compute(tile)
        # Computed again for the gradient, so that the memory holds one tile at a time.
        result: tuple[Tensor, Tensor] = checkpoint(compute, tile, use_reentrant=False)
        return result

    def score_bounds(
        self,
        images: Tensor,
        radius: float,
        norm: Literal["linf", "l2"],
        rounding: Sequence[DistanceRounding] | None = None,
    ) -> ScoreBounds:
        """Bound the scores under every perturbation within a radius, see :class:`SupportsScoreBounds`.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            radius: Radius, >= 0, in [0, 1] pixel units of the images as given.
            norm: Norm of the perturbation.
            rounding: As in :meth:`ClosedFormDetector.score_bounds`.

        Returns:
            Scores and their bounds. The upper bound is infinite where that of a tile is.

        Raises:
            ConfigError: The radius is negative or not a number, or the norm is another one.
            DataError: As for :meth:`ClosedFormDetector.score_bounds`.
        """
        check_perturbations(radius, norm)
        images = check_images(images)
        tiles = list(self.tiles(images))
        within = framed_radius(images.shape[2], images.shape[3], self.framing, radius, norm)
        found = [self.base.score_bounds(tile, within, norm, rounding=rounding) for tile in tiles]
        return ScoreBounds(
            scores=torch.stack([part.scores for part in found]).amax(0),
            lower=torch.stack([part.lower for part in found]).amax(0),
            upper=torch.stack([part.upper for part in found]).amax(0),
            lower_map=self._stitched([part.lower_map for part in found]),
        )

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow in place of the score: means over the tiles, which all have gradients."""
        losses = {"all tiles": SurrogateLoss(partial(self._mean_over_tiles, None), "surrogate")}
        for name, loss in self.base.surrogates.items():
            losses[f"all tiles: {name}"] = SurrogateLoss(partial(self._mean_over_tiles, loss), "surrogate")
        return losses

    def _mean_over_tiles(self, loss: SurrogateLoss | None, images: Tensor, generator: torch.Generator) -> Tensor:
        parts = []
        for tile in self.tiles(images):
            parts.append(self._scored(tile)[0] if loss is None else loss(tile, generator))
        return torch.stack(parts).mean(0)

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
        """Write the model folder: ``config.json``, the model card, and ``model.safetensors`` with the normal tiles.

        Args:
            folder: Folder, made if missing; a model in it is replaced.

        Raises:
            OutputError: The folder holds files that advrad did not write, or cannot be written.
        """
        save_folder(Path(folder), self.config.model_dump(mode="json"), dict(self.state_dict()))
        write_card(Path(folder), render(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TiledDetector:
        """Load a model folder that :meth:`save_pretrained` wrote.

        Args:
            folder: Model folder.

        Raises:
            CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
        """
        values, tensors, source = load_kind(Path(folder), "tiled", "a detector of tiles")
        config = TiledConfig.parse(values, source)
        named = {name.removeprefix("base."): value for name, value in tensors.items()}
        return cls(config, ClosedFormDetector.assemble(config.base, named, source)).eval()
