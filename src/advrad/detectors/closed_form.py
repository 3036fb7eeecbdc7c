"""The closed-form detector: distances to the patches of normal images, with bounds that hold under every perturbation.

Nothing is trained. The score of an image is the largest standardised distance of its patches to the memory, or the mean
of the largest ones:

    A(x) = pool over sites of (S(x) - mean) / (spread + tolerance),

with S of :mod:`advrad.denoisers.patch_memory`. Standardising and pooling are increasing in every S, so bounds of S give
bounds of A.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.base import DetectorOutput, ScoreBounds, SurrogateLoss
from advrad.detectors.config import Calibration, RecordedFigures, TrainingRecord
from advrad.detectors.model_folder import CONFIG_NAME, load_folder, save_folder
from advrad.detectors.scoring import pool
from advrad.errors import CheckpointError, ConfigError, NotCalibratedError
from advrad.utils.config import Config


class ClosedFormConfig(Config):
    """Everything about a closed-form detector except its tensors.

    Attributes:
        kind: Name of this kind of detector in files.
        memory: Shape of the patches.
        pooling: Share of the largest standardised distances whose mean is the score, in [0, 1]; 0 is the maximum.
        tolerance: Added to the spread of each site, > 0; the score changes by at most ``eps / tolerance`` under a
            perturbation of at most eps in every pixel.
        calibration: Threshold of the score; None if it was not set.
        training: How the detector was fitted.
        figures: Measured results, shown in the model card.
    """

    kind: Literal["closed_form"] = "closed_form"
    memory: MemoryConfig = MemoryConfig()
    pooling: float = Field(0.0, ge=0, le=1)
    tolerance: float = Field(1.0, gt=0)
    calibration: Calibration | None = None
    training: TrainingRecord = TrainingRecord()
    figures: RecordedFigures = RecordedFigures()


class ClosedFormDetector(nn.Module):
    """Anomaly detector whose robustness can be computed exactly, without randomness.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that supports score bounds.

    Args:
        config: Configuration.
        memory: Memory of normal images; its configuration is ``config.memory``.
        mean: Mean distance of normal images at each site, (1, 1, sites, sites).
        spread: Spread of the distance of normal images at each site, same shape, >= 0.

    Example:
        >>> config = ClosedFormConfig(memory=MemoryConfig(size_px=8, cell_px=2, patch_cells=3))
        >>> normal = torch.full((2, 3, 4, 4), 128, dtype=torch.uint8)
        >>> memory = PatchMemory(config.memory, normal, torch.arange(2))
        >>> detector = ClosedFormDetector(config, memory, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
        >>> bounds = detector.score_bounds(torch.ones(1, 3, 8, 8), 0.1, "linf")
        >>> [round(float(part), 2) for part in (bounds.lower, bounds.scores, bounds.upper)]
        [0.4, 0.5, 0.6]
    """

    deterministic = True
    differentiable = True
    size_px = None
    noise_seed = None

    mean: Tensor
    spread: Tensor

    def __init__(self, config: ClosedFormConfig, memory: PatchMemory, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        shape = (1, 1, config.memory.sites, config.memory.sites)
        if not mean.shape == spread.shape == shape:
            raise ConfigError(
                f"statistics: expected the shape {shape}, got {tuple(mean.shape)} and {tuple(spread.shape)}"
            )
        self.config = config
        self.memory = memory
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    @property
    def threshold(self) -> float | None:
        """Threshold of the score; None if it was not set."""
        return None if self.config.calibration is None else self.config.calibration.threshold

    @property
    def calibration(self) -> Calibration:
        """The threshold and where it comes from.

        Raises:
            NotCalibratedError: The detector has no threshold.
        """
        if self.config.calibration is None:
            raise NotCalibratedError(
                "the detector has no threshold and gives no verdicts; fit it on more normal images"
            )
        return self.config.calibration

    def standardise(self, distances: Tensor) -> Tensor:
        """Standardise distances, (b, 1, sites, sites), by the statistics of normal images. Increasing in each."""
        return (distances - self.mean) / (self.spread + self.config.tolerance)

    def pooled(self, standardised: Tensor) -> Tensor:
        """Compute scores, (b,), from standardised distances, (b, 1, sites, sites). Non-decreasing in each of them."""
        return pool(standardised, self.config.pooling)

    def infer(self, images: Tensor, generator: torch.Generator | None = None) -> DetectorOutput:
        """Compute scores and anomaly maps.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            generator: Not used: the score has no randomness.

        Returns:
            Scores, (b,), and maps, (b, 1, size, size). Row i depends on row i only. Differentiable in ``images``.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(f"images: expected (b, 3, h, w), got {tuple(images.shape)}")
        standardised = self.standardise(self.memory.nearest(images))
        return DetectorOutput(self.pooled(standardised), self._map(standardised))

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        """Bound the scores under every perturbation within a radius, see :class:`SupportsScoreBounds`.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], of any size.
            radius: Radius, >= 0, in [0, 1] pixel units of the images as given.
            norm: Norm of the perturbation.

        Returns:
            Scores and their bounds.
        """
        eps = radius if norm == "linf" else 0.0
        distances = self.memory.bounds(images, eps)
        lower, upper = distances.lower, distances.upper
        if norm == "l2":
            reach = radius * self.memory.l2_norm(images.shape[2], images.shape[3])
            lower, upper = (lower - reach).clamp_min(0), upper + reach
        low, middle, high = (self.standardise(part) for part in (lower, distances.nearest, upper))
        return ScoreBounds(
            scores=self.pooled(middle), lower=self.pooled(low), upper=self.pooled(high), lower_map=self._map(low)
        )

    def _map(self, standardised: Tensor) -> Tensor:
        """Anomaly maps, (b, 1, size, size): every site stands for the middle of its patch, the border repeats."""
        config = self.config.memory
        margin = config.patch_cells // 2
        padded = F.pad(standardised, (margin, margin, margin, margin), mode="replicate")
        return F.interpolate(padded, size=(config.size_px, config.size_px), mode="bilinear", align_corners=False)

    @cached_property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow: means of the largest distances, and of all of them."""
        shares = (0.003, 0.03, 1.0)
        return {f"top {share:g}": SurrogateLoss(partial(self._pooled_at, share), "surrogate") for share in shares}

    def _pooled_at(self, share: float, images: Tensor, generator: torch.Generator) -> Tensor:
        return pool(self.standardise(self.memory.nearest(images)), share)

    def predict_batch(self, images: Tensor) -> DetectorOutput:
        """Compute scores and anomaly maps without gradients.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Scores and maps on the CPU, float32; the same for any batch size.
        """
        with torch.no_grad():
            parts = [self.infer(part) for part in torch.split(images, 1)]
        maps = [part.anomaly_maps for part in parts if part.anomaly_maps is not None]
        return DetectorOutput(torch.cat([part.scores for part in parts]).float().cpu(), torch.cat(maps).float().cpu())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder: ``config.json`` and ``model.safetensors``, which holds the normal images as cells.

        Args:
            folder: Folder, made if missing; a model in it is replaced.

        Raises:
            OutputError: The folder cannot be written.
        """
        save_folder(Path(folder), self.config.model_dump(mode="json"), dict(self.state_dict()))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ClosedFormDetector:
        """Load a model folder that :meth:`save_pretrained` wrote.

        Args:
            folder: Model folder.

        Raises:
            CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
        """
        place = Path(folder)
        values, tensors = load_folder(place)
        source = place / CONFIG_NAME
        if values.get("kind") != "closed_form":
            raise CheckpointError(f"{source}: is not a closed-form detector; load it with AdvRAD.from_pretrained")
        config = ClosedFormConfig.parse(values, str(source))
        names = ("memory.images", "memory.groups", "mean", "spread")
        if tensors.keys() != set(names):
            raise CheckpointError(
                f"{source}: the tensors do not belong to a closed-form detector; copy the folder again"
            )
        images, groups, mean, spread = (tensors[name] for name in names)
        return cls(config, PatchMemory(config.memory, images, groups), mean, spread).eval()
