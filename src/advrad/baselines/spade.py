"""SPADE: the distance to the most similar normal images, and position by position to their parts.

Source: Cohen and Hoshen 2020, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences".
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext
from advrad.baselines.features import flatten_positions, gaussian_blur, upsample, freeze, imagenet_network, concatenate_maps, nearest_neighbours
from advrad.detectors.base import DetectorOutput
from advrad.utils.config import Config


class SpadeOptions(Config):
    """Options of SPADE. The paper's pyramid begins at 1/4 of the image's side and its gallery holds every position.

    Attributes:
        neighbours: normal images to compare with, the paper's K; all of them where they are fewer.
        position_neighbours: nearest features that each position is compared with, the paper's kappa.
        layers: of the network; the last is averaged into the feature of the whole image, the others are the pyramid.
        gallery_pictures: normal images to remember at most, drawn at random; None for all.
        gallery_positions: positions of each image to remember at most, drawn at random; None for all.
        smooth_px: standard deviation of the map's Gaussian filter.
    """

    neighbours: int = Field(50, ge=1)
    position_neighbours: int = Field(1, ge=1)
    layers: tuple[int, ...] = Field((2, 3, 4), min_length=2)
    gallery_pictures: int | None = Field(500, ge=1)
    gallery_positions: int | None = Field(512, ge=1)
    smooth_px: float = Field(4.0, ge=0)


class Spade(BaselineDetector):
    """Fitted SPADE.

    The score is the paper's equation 2, the mean squared distance of the image's feature to its nearest ones; the map
    is equation 3 over all positions of these images. The two are computed from different features, as in the paper.

    Args:
        size_px: of the images.
        network: see :mod:`advrad.baselines.features`; gives at least two maps.
        options: see there.
        wholes: (n, c), features of the normal images.
        parts: (n, p, c'), features of positions of the same images.
    """

    wholes: Tensor
    parts: Tensor

    def __init__(self, size_px: int, network: nn.Module, options: SpadeOptions, wholes: Tensor, parts: Tensor) -> None:
        super().__init__(size_px)
        self.network, self.options = freeze(network), options
        self.register_buffer("wholes", wholes)
        self.register_buffer("parts", parts)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`; maps (b, 1, h, w) at the size of the images."""
        wholes, pyramid = _described(self.network, images)
        distances, rows = nearest_neighbours(wholes, self.wholes, self.options.neighbours)
        height, width = pyramid.shape[-2:]
        errors = []
        for features, similar in zip(flatten_positions(pyramid), rows, strict=True):
            gallery = self.parts[similar].flatten(0, 1)
            away, _ = nearest_neighbours(features, gallery, self.options.position_neighbours)
            errors.append(away.mean(1).view(1, height, width))
        maps = upsample(torch.stack(errors), images)
        return DetectorOutput(distances.mean(1), gaussian_blur(maps, self.options.smooth_px))


def fit_spade(lesson: FitContext, options: SpadeOptions, network: nn.Module | None = None) -> Spade:
    """Remember the normal images.

    Args:
        lesson: what to learn from.
        options: see there.
        network: see :mod:`advrad.baselines.features`; by default :func:`imagenet_network`.
    """
    network = freeze(imagenet_network(options.layers) if network is None else network)
    draws = lesson.generator("spade")
    count = len(lesson.good)
    chosen = torch.randperm(count, generator=draws)[: options.gallery_pictures]
    wholes, parts = [], []
    with torch.no_grad():
        for done, row in enumerate(chosen.tolist(), start=1):
            whole, pyramid = _described(network, lesson.good.batch([row]))
            features = flatten_positions(pyramid)
            kept = torch.randperm(features.shape[1], generator=draws)[: options.gallery_positions]
            wholes.append(whole)
            parts.append(features[:, kept])
            lesson.progress.update(done, len(chosen))
    return Spade(lesson.size_px, network, options, torch.cat(wholes), torch.cat(parts))


def _described(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features of whole images (b, c) and the pyramid (b, c', h, w)."""
    *fine, coarse = network(images)
    return coarse.mean((2, 3)), concatenate_maps(fine)
