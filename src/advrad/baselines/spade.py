"""SPADE: distance to the nearest normal images, and of each position to the positions of those images.

Source: Cohen and Hoshen 2020, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences".

Difference from the paper: the network is EfficientNet-lite0, and the memory holds a random part of the positions.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext, freeze
from advrad.baselines.features import (
    gaussian_blur,
    imagenet_network,
    upsample,
)
from advrad.detectors.base import DetectorOutput
from advrad.detectors.nearest import concatenate_maps, flatten_positions, nearest_neighbours
from advrad.utils.config import Config


class SpadeOptions(Config):
    """Options of SPADE. In the paper the pyramid begins at 1/4 of the image's side and the memory holds every position.

    Attributes:
        neighbours: Number of nearest normal images (K in the paper); all of them if there are fewer.
        position_neighbours: Number of nearest features per position (kappa in the paper).
        layers: Feature maps of the network; the last is averaged into the image feature, the others form the pyramid.
        gallery_pictures: Largest number of normal images in memory, drawn at random; None for all.
        gallery_positions: Largest number of positions in memory per image, drawn at random; None for all.
        smooth_px: Standard deviation of the Gaussian filter over the map, in pixels.
    """

    neighbours: int = Field(50, ge=1)
    position_neighbours: int = Field(1, ge=1)
    layers: tuple[int, ...] = Field((2, 3, 4), min_length=2)
    gallery_pictures: int | None = Field(500, ge=1)
    gallery_positions: int | None = Field(512, ge=1)
    smooth_px: float = Field(4.0, ge=0)


class Spade(BaselineDetector):
    """Fitted SPADE.

    The score is equation 2 of the paper: the mean squared distance of the image feature to its nearest neighbours. The
    map is equation 3, over the positions of these neighbours. As in the paper, the two use different features.

    Args:
        size_px: Side of the images in pixels.
        network: Feature network with at least two maps, see :mod:`advrad.baselines.features`.
        options: Options of SPADE.
        image_features: Image features of the normal images, (n, c).
        patch_features: Features of positions of the same images, (n, p, c').
    """

    image_features: Tensor
    patch_features: Tensor

    def __init__(
        self, size_px: int, network: nn.Module, options: SpadeOptions, image_features: Tensor, patch_features: Tensor
    ) -> None:
        super().__init__(size_px)
        self.network, self.options = freeze(network), options
        self.register_buffer("image_features", image_features)
        self.register_buffer("patch_features", patch_features)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`; the maps have the size of the images."""
        image_features, pyramid = _image_and_patch_features(self.network, images)
        distances, rows = nearest_neighbours(image_features, self.image_features, self.options.neighbours)
        height, width = pyramid.shape[-2:]
        errors = []
        for features, similar in zip(flatten_positions(pyramid), rows, strict=True):
            gallery = self.patch_features[similar].flatten(0, 1)
            away, _ = nearest_neighbours(features, gallery, self.options.position_neighbours)
            errors.append(away.mean(1).view(1, height, width))
        maps = upsample(torch.stack(errors), images)
        return DetectorOutput(distances.mean(1), gaussian_blur(maps, self.options.smooth_px))


def fit_spade(context: FitContext, options: SpadeOptions, network: nn.Module | None = None) -> Spade:
    """Store the features of the normal images.

    Args:
        context: Training images.
        options: Options of SPADE.
        network: Feature network, see :mod:`advrad.baselines.features`; None for :func:`imagenet_network`.
    """
    network = freeze(imagenet_network(options.layers) if network is None else network)
    draws = context.generator("spade")
    count = len(context.normal_images)
    chosen = torch.randperm(count, generator=draws)[: options.gallery_pictures]
    image_features, patch_features = [], []
    with torch.no_grad():
        for done, row in enumerate(chosen.tolist(), start=1):
            whole, pyramid = _image_and_patch_features(network, context.normal_images.batch([row]))
            features = flatten_positions(pyramid)
            kept = torch.randperm(features.shape[1], generator=draws)[: options.gallery_positions]
            image_features.append(whole)
            patch_features.append(features[:, kept])
            context.progress.update(done, len(chosen))
    return Spade(context.size_px, network, options, torch.cat(image_features), torch.cat(patch_features))


def _image_and_patch_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute image features (b, c) and the feature pyramid (b, c', h, w)."""
    *fine, coarse = network(images)
    return coarse.mean((2, 3)), concatenate_maps(fine)
