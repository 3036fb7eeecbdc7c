"""Our own nearest-neighbour detector on features, as a system of the bench: half of a guarded detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from advrad.baselines.base import FitContext
from advrad.baselines.closed_form import most_images
from advrad.utils.config import Config

if TYPE_CHECKING:
    from advrad.detectors.feature_memory import FeatureDetector


class FeaturesOptions(Config):
    """Options of the detector on features.

    Attributes:
        network: ``lite0`` or ``lite2``, whose weights are packages; or a network of timm.
        layers: Numbers of the feature maps, ascending; None for the usual ones of the network.
    """

    network: str = "lite2"
    layers: tuple[int, ...] | None = Field(None, min_length=1)


def fit_feature_baseline(context: FitContext, options: FeaturesOptions) -> FeatureDetector:
    """Fit the detector to the normal images that the closed form takes: all, or 400 of them.

    It has no threshold: no normal image is kept for one.

    Args:
        context: Training images.
        options: Network and layers.

    Raises:
        ConfigError: The network's weights are missing, or it has no such layer.
    """
    from advrad.training.feature_fit import fit_features

    images = most_images(context)
    return fit_features(
        images.batch(slice(None)),
        network=options.network,
        layers=options.layers,
        seed=context.seed,
        progress=context.progress,
    )
