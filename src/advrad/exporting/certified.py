"""Bounds of the scores of an export: those of the PyTorch detector, widened by what rounding can do.

They hold for the numbers that the exported graph computes, for every image of 8 bits within the radius, at the size of
the camera's image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.data.array_checks import check_images
from advrad.data.framing import PADDING, Framing
from advrad.data.images import reduction_px
from advrad.data.resize_norm import framed_radius
from advrad.detectors.base import DetectorOutput, ScoreBounds, SurrogateLoss
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.exported import ExportedDetector, to_pixels
from advrad.detectors.exported_config import ExportedConfig
from advrad.detectors.loading import LoadedDetector
from advrad.detectors.tiled import TiledDetector
from advrad.errors import ConfigError
from advrad.exporting.rounding import LARGEST_SHRINKING, MemberRounding, member_roundings, shrinking_of
from advrad.utils.radii import check_perturbations

#: Largest error of a value of the working image that is made here: it is rounded once, to float32.
_ROUNDED_ONCE = 1e-7
#: Values further than this from a whole number of levels are not of 8 bits.
_ON_A_LEVEL = 1e-5


def certifiable(export: LoadedDetector, source: LoadedDetector) -> LoadedDetector:
    """Join an export with the model folder that it was made from, so that its scores have bounds.

    Args:
        export: Export, as :func:`advrad.detectors.loading.load_target` loads it.
        source: The model folder that it was made from.

    Returns:
        A detector that scores as the export does, and bounds these scores.

    Raises:
        ConfigError: Nothing is proven about the rounding of the export, or the folder is another one.
    """
    detector = export.detector
    if not isinstance(detector, ExportedDetector):
        raise ConfigError("is not needed: it belongs to an export, and this detector is none", option="from")
    check_proven(detector.config)
    if source.identity != detector.config.provenance.config_sha256:
        raise ConfigError(
            "is not the model folder that this export was made from, or was changed since, by 'advrad calibrate' for"
            " example; name that folder, or export it again",
            option="from",
        )
    proven = cast("ClosedFormDetector | TiledDetector", source.detector)
    return LoadedDetector(CertifiedExport(detector, proven), f"{export.identity} with bounds", export.folder)


def check_proven(config: ExportedConfig) -> None:
    """Refuse an export of whose rounding nothing is proven.

    Args:
        config: Everything about the export.

    Raises:
        ConfigError: Nothing is proven.
    """
    if config.rounding.bound is None:
        raise ConfigError(f"{config.rounding.words} Certify the model folder that the export was made from")


class CertifiedExport:
    """An export with bounds of its scores: an :class:`AnomalyDetector` that supports score bounds.

    Args:
        export: Export.
        source: The PyTorch detector that it was made from.
    """

    size_px = None
    deterministic = True
    differentiable = False
    noise_seed = None
    surrogates: Mapping[str, SurrogateLoss] = {}

    def __init__(self, export: ExportedDetector, source: ClosedFormDetector | TiledDetector) -> None:
        self.export, self.source, self.config = export, source, export.config
        self._roundings: dict[float, tuple[MemberRounding, ...]] = {}

    @property
    def threshold(self) -> float:
        """Threshold of the export."""
        return self.export.threshold

    @property
    def framing(self) -> Framing:
        """How the graph makes working images of images."""
        return self.export.framing

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """Compute scores and anomaly maps with the exported graph, see :class:`AnomalyDetector`."""
        return self.export.infer(images, generator)

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        """Bound the scores that the exported graph gives to all 8-bit images within a radius.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size. For those whose values are not levels of 8 bits
                what rounding them to 8 bits changes is added to the radius.
            radius: Radius, >= 0, in [0, 1] pixel units of the images as given.
            norm: Norm of the perturbation.

        Returns:
            Scores of the exported graph and their bounds. The bounds are infinite for an image of more than 40 px for
            one of the detector's.

        Raises:
            ConfigError: The radius is negative or not a number, or the norm is another one.
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
        """
        check_perturbations(radius, norm)
        images = check_images(images).detach().cpu()
        found = [self._bounds(image, radius, norm) for image in torch.split(images, 1)]
        columns = zip(*((part.scores, part.lower, part.upper, part.lower_map) for part in found), strict=True)
        return ScoreBounds(*map(torch.cat, columns))

    def _bounds(self, image: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        [pixels] = to_pixels(image)
        levels = image.double() * 255
        if float((levels - levels.round()).abs().max()) > _ON_A_LEVEL * 255:
            half = 0.5 / 255 * (1 if norm == "linf" else math.sqrt(image.numel()))
            values, radius = image[0].permute(1, 2, 0).double().numpy(), radius + half
        else:
            values = pixels / 255.0
        height, width = pixels.shape[:2]
        working = torch.from_numpy(working_image(values, self.framing))
        slack = _ROUNDED_ONCE * (1 if norm == "linf" else math.sqrt(working.numel()))
        within = radius if norm == "linf" else framed_radius(height, width, self.framing, radius, norm, read=True)
        shrinking = shrinking_of(self.framing, height, width)
        roundings = self._rounding(min(shrinking, LARGEST_SHRINKING))
        found = self.source.score_bounds(working[None], within + slack, norm, rounding=roundings)
        pooled = math.inf if shrinking > LARGEST_SHRINKING else max(part.pooled for part in roundings)
        score = torch.tensor([self.export.run([pixels])[0].score])
        return ScoreBounds(score, found.lower - pooled, found.upper + pooled, found.lower_map - pooled)

    def _rounding(self, shrinking: float) -> tuple[MemberRounding, ...]:
        """What rounding can do to images that are scaled down by a factor, rounded up to a whole number."""
        whole = math.ceil(shrinking)
        if whole not in self._roundings:
            self._roundings[whole] = member_roundings(self.source, whole)
        return self._roundings[whole]


def working_image(values: npt.NDArray[np.float64], framing: Framing) -> npt.NDArray[np.float32]:
    """Make the working image as in exact arithmetic: computed in float64, and rounded once.

    Args:
        values: Image, (h, w, 3), in [0, 1].
        framing: How images become working images.

    Returns:
        The working image, (3, height_px, width_px).

    Example:
        >>> working_image(np.ones((40, 30, 3)), Framing.square(16)).shape
        (3, 16, 16)
    """
    height, width = values.shape[:2]
    side = reduction_px(height, width, framing)
    rows, columns = framing.scaled_size(height, width)
    down, across = exact_matrix(height, rows, side), exact_matrix(width, columns, side)
    working = np.full((3, framing.height_px, framing.width_px), PADDING, dtype=np.float32)
    working[:, *framing.window(height, width)] = down @ values.transpose(2, 0, 1) @ across.T
    return working


@lru_cache(maxsize=16)
def exact_matrix(length_px: int, size_px: int, side_px: int) -> npt.NDArray[np.float64]:
    """Compute the weights with which one side is averaged over squares and resized, from whole numbers.

    Args:
        length_px: Length of the side before.
        size_px: Length of the side after.
        side_px: Side of the squares; 1 for none.

    Returns:
        Matrix, (size_px, length_px), entries at least 0, rows with sum 1.

    Example:
        >>> exact_matrix(4, 2, 1)[0].tolist()
        [0.42857142857142855, 0.42857142857142855, 0.14285714285714285, 0.0]
    """
    block = np.arange(length_px) // side_px
    count = np.bincount(block)
    old, new = np.arange(len(count)), np.arange(size_px)[:, None]
    width = 2 * max(len(count), size_px)
    weights = np.maximum(0, width - np.abs((2 * old + 1) * size_px - (2 * new + 1) * len(count))).astype(np.float64)
    matrix: npt.NDArray[np.float64] = (weights / weights.sum(1, keepdims=True) / count)[:, block]
    return matrix
