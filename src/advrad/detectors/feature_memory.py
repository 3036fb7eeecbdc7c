"""A detector that compares features of an image with those of normal images.

A network trained on ImageNet gives a feature vector for each position of an image. The bank holds vectors of normal
images. The distance of a position is that to its nearest neighbours in the bank; the score is the largest mean of
distances over a small window. Nothing is trained, and nothing is proven: a small perturbation can change features much.

Source: Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection" (PatchCore). Scores are not reweighted
by the neighbours of the nearest vector, and distances are averaged before the maximum is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.data.array_checks import check_layout
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.detectors.feature_config import FeatureConfig
from advrad.detectors.feature_network import FeatureNetwork, build_network
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import load_kind, save_folder, write_card
from advrad.detectors.nearest import concatenate_maps, flatten_positions, nearest_neighbours
from advrad.detectors.saved import SavedMixin, infer_singly
from advrad.errors import CheckpointError, ConfigError

__all__ = ["FeatureConfig", "FeatureDetector", "features_of"]

#: Added to squared distances, so that the square root of 0 has a gradient.
_TINY = 1e-12


def features_of(network: FeatureNetwork, config: FeatureConfig, images: Tensor) -> Tensor:
    """Compute the feature maps that are compared.

    Args:
        network: The network.
        config: How images are framed, and over which window feature maps are averaged.
        images: Images, (b, 3, h, w), float in [0, 1], of any size.

    Returns:
        Features, (b, c, rows, columns). Differentiable.
    """
    maps = network(config.framing.apply(images))
    side = config.pooling
    return concatenate_maps([F.avg_pool2d(part, side, 1, side // 2) for part in maps])


class FeatureDetector(SavedMixin, nn.Module):
    """Anomaly detector on features of a network, by nearest neighbours.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that can be saved. Attacks reach it: it has no bounds.

    Args:
        config: Configuration.
        network: The network of ``config.network``, with its weights.
        bank: Feature vectors of normal images, (n, c).
        groups: Number of the image that each vector comes from, (n,) int64.

    Example:
        >>> from advrad.detectors.feature_config import NetworkConfig
        >>> config = FeatureConfig(network=NetworkConfig(name="lite0", layers=(1,)), image_size_px=32)
        >>> normal = torch.full((1, 3, 32, 32), 0.5)
        >>> network = build_network(config.network)
        >>> bank = features_of(network, config, normal).flatten(2)[0].T
        >>> detector = FeatureDetector(config, network, bank, torch.zeros(len(bank), dtype=torch.int64))
        >>> round(float(detector.scores(normal)), 4)
        0.0
    """

    deterministic = True
    differentiable = True
    size_px = None
    noise_seed = None
    without_threshold = "calibrate it with normal images that were used for nothing else"

    bank: Tensor
    groups: Tensor

    def __init__(self, config: FeatureConfig, network: FeatureNetwork, bank: Tensor, groups: Tensor) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.register_buffer("bank", bank)
        self.register_buffer("groups", groups)
        self.eval()

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels. Tensors may have any size."""
        return self.config.image_size_px

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return self.bank.device

    def update_config(self, **changes: Any) -> None:
        """Replace entries of the configuration, such as ``calibration``."""
        self.config = self.config.model_copy(update=changes)

    # --- Scoring ---

    def infer(self, images: Tensor, generator: torch.Generator | None = None) -> DetectorOutput:
        """Compute scores and anomaly maps.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            generator: Not used: the score has no randomness.

        Returns:
            Scores, (b,), and maps, (b, 1, size, size) with ``size = image_size_px``. Row i depends on row i only.
            Differentiable in ``images``.
        """
        smooth = self._smooth(self.distances(images))
        size = (self.image_size_px, self.image_size_px)
        maps = F.interpolate(smooth, size=size, mode="bilinear", align_corners=False)
        return DetectorOutput(smooth.flatten(1).amax(1), maps)

    def scores(self, images: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Compute scores alone, (b,).

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            exclude: Number of the normal image to leave out of the bank for each image, (b,) int64; for the score of a
                normal image against the others.

        Raises:
            ConfigError: ``exclude`` is given, and what the bank holds was chosen by what all images show.
        """
        return self._smooth(self.distances(images, exclude)).flatten(1).amax(1)

    def distances(self, images: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Compute the distance of every position to its nearest neighbours in the bank.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            exclude: As in :meth:`scores`.

        Returns:
            Distances, (b, 1, rows, columns). Differentiable.

        Raises:
            ConfigError: As in :meth:`scores`; or nothing is left of the bank.
        """
        check_layout(images)
        images = images.float() if images.element_size() < 4 else images
        features = features_of(self.network, self.config, images)
        queries = flatten_positions(features)
        if exclude is None:
            squared = self._squared(queries.flatten(0, 1), self.bank)
        else:
            parts = zip(queries, exclude.tolist(), strict=True)
            squared = torch.cat([self._squared(part, self._bank_without(group)) for part, group in parts])
        found = (squared + _TINY).sqrt().mean(1)
        return found.view(len(images), 1, *features.shape[2:])

    def _squared(self, queries: Tensor, bank: Tensor) -> Tensor:
        return nearest_neighbours(queries, bank, self.config.neighbours)[0]

    def _bank_without(self, group: int) -> Tensor:
        """The bank without the vectors of one image."""
        if not self.config.leaves_one_out:
            raise ConfigError(
                "no image can be left out of this detector: its vectors were chosen among those of all images; fit it"
                " with leave_one_out",
                option="exclude",
                value=group,
            )
        left = self.bank[self.groups != group]
        if not len(left):
            raise ConfigError("nothing is left of the bank; fit the detector on more images", option="exclude")
        return left

    def _smooth(self, distances: Tensor) -> Tensor:
        """Average distances, (b, 1, rows, columns), over windows; beyond the border nothing counts."""
        side = self.config.smoothing
        return F.avg_pool2d(distances, side, 1, side // 2, count_include_pad=False)

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow: means of the largest distances, and of all of them."""
        shares = (0.01, 0.1, 1.0)
        return {f"top {share:g}": SurrogateLoss(partial(self._pooled_at, share), "surrogate") for share in shares}

    def _pooled_at(self, share: float, images: Tensor, generator: torch.Generator) -> Tensor:
        distances = self.distances(images).flatten(1)
        return distances.topk(max(1, round(share * distances.shape[1]))).values.mean(1)

    # --- Deciding ---

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

    # --- The model folder ---

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder: ``config.json``, the model card, and the tensors of the network and of the bank.

        Args:
            folder: Folder, made if missing; a model in it is replaced.

        Raises:
            OutputError: The folder holds files that advrad did not write, or cannot be written.
        """
        save_folder(Path(folder), self.config.model_dump(mode="json"), dict(self.state_dict()))
        write_card(Path(folder), render(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> FeatureDetector:
        """Load a model folder that :meth:`save_pretrained` wrote; no package of weights is needed.

        Args:
            folder: Model folder.

        Raises:
            CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
            ConfigError: The network is of timm, which is missing.
        """
        values, tensors, source = load_kind(Path(folder), "features", "a detector on features")
        return cls.assemble(FeatureConfig.parse(values, source), tensors, source)

    @classmethod
    def assemble(cls, config: FeatureConfig, tensors: Mapping[str, Tensor], source: str) -> FeatureDetector:
        """Build a detector from its configuration and its tensors.

        Args:
            config: Configuration.
            tensors: Tensors by name, as in ``state_dict()``.
            source: Name of their file, for messages.

        Raises:
            CheckpointError: The tensors do not belong to the configuration.
            ConfigError: The network is of timm, which is missing.
        """
        network = build_network(config.network)
        try:
            detector = cls(config, network, tensors["bank"], tensors["groups"])
            detector.load_state_dict(dict(tensors))
            _check_bank(detector)
        except (KeyError, RuntimeError):
            raise CheckpointError(
                f"{source}: the tensors do not belong to this detector on features; copy the folder again"
            ) from None
        return detector


def _check_bank(detector: FeatureDetector) -> None:
    """Check that the bank fits the network.

    Raises:
        RuntimeError: It does not.
    """
    bank, groups = detector.bank, detector.groups
    with torch.no_grad():
        maps = detector.network(torch.full((1, 3, 64, 64), 0.5))
    channels = sum(part.shape[1] for part in maps)
    if bank.ndim != 2 or not len(bank) or bank.shape[1] != channels or groups.shape != bank.shape[:1]:
        raise RuntimeError("the bank does not fit the network")
