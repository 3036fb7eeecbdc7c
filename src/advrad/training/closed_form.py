"""Fit a closed-form detector to normal images: nothing is trained, so it takes seconds.

All normal images become the memory. What else is learned from them keeps the promise of the threshold:

- **Part A** gives mean and spread of the distances at each site, from leave-one-out distances within part A.
- **Part B** gives the threshold: the conformal quantile of its leave-one-out scores, each image against all others
  of both parts.

Statistics depend on part A alone, so the images of part B and a new normal image are exchangeable given part A. If
the new image joined the memory, the scores of part B could only fall, so the quantile errs on the safe side: the
false-alarm rate is at most the given one (proof in docs/certificates.md). With few images there is no part A; the
distances are then not standardised, and all images set the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advrad.data.splits import normals_needed, rate_in_reach
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector
from advrad.detectors.config import Calibration, ImageCounts, TrainingRecord
from advrad.detectors.conformal import conformal_threshold
from advrad.errors import ConfigError, DataError
from advrad.utils.environment import versions
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for

#: Default shape of the patches: for products that lie in about the same place in every image.
DEFAULT_MEMORY = MemoryConfig()
#: Fewest images from which the distances of each site are standardised.
LEAST_STATISTICS = 10
#: Share of the images that set the threshold, where there are enough.
_THRESHOLD_SHARE = 1 / 3
#: Tolerance beside the spread of each site: two grey levels of 255, about what sensors and attacks change.
_TOLERANCE = 2 / 255


@dataclass(frozen=True)
class _Parts:
    """Indices of the images by purpose, duplicates left out.

    Attributes:
        statistics: Part A: mean and spread of the distances; may be empty.
        threshold: Part B: the threshold.
    """

    statistics: tuple[int, ...]
    threshold: tuple[int, ...]


def fit_closed_form(
    images: Tensor,
    config: MemoryConfig = DEFAULT_MEMORY,
    *,
    false_alarm_rate: float = 0.05,
    pooling: float = 0.0,
    seed: int = 0,
    progress: ProgressReporter = SILENT,
) -> ClosedFormDetector:
    """Fit a closed-form detector.

    Args:
        images: Normal images, (n, 3, h, w) float in [0, 1]; ``1 / false_alarm_rate - 1`` different ones at least.
        config: Shape of the patches.
        false_alarm_rate: Largest probability that a new normal image exceeds the threshold, between 0 and 1.
        pooling: Share of the largest standardised distances whose mean is the score; 0 is the maximum.
        seed: Seed of the division of the images.
        progress: Receives the number of images that were compared with the others.

    Returns:
        The calibrated detector.

    Raises:
        ConfigError: There are too few images for the rate.
        DataError: The images have a wrong shape.

    Example:
        >>> images = 0.5 + 0.01 * torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> detector = fit_closed_form(images.clamp(0, 1), MemoryConfig(size_px=16, cell_px=2, patch_cells=3))
        >>> detector.calibration.n
        20
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"images: expected (n, 3, h, w), got {tuple(images.shape)}")
    blank = PatchMemory(config, torch.zeros(1, 3, config.cells, config.cells, dtype=torch.uint8), torch.zeros(1))
    cells = torch.cat([blank.quantised(blank.cells(part)) for part in torch.split(images, 16)])
    groups, first = _groups(cells)
    parts = _divide(first, false_alarm_rate, seed)
    memory = PatchMemory(config, cells, groups)
    total = len(parts.statistics) + len(parts.threshold)
    mean, spread, tolerance = torch.zeros(1, 1, config.sites, config.sites), None, 1.0
    if parts.statistics:
        rows = list(parts.statistics)
        alone = PatchMemory(config, cells[rows], groups[rows])
        distances = _leave_one_out(alone, images[rows], groups[rows], 0, total, progress)
        mean, spread, tolerance = distances.mean(0, keepdim=True), distances.std(0, keepdim=True), _TOLERANCE
    detector = ClosedFormDetector(
        ClosedFormConfig(memory=config, pooling=pooling, tolerance=tolerance),
        memory,
        mean,
        torch.zeros_like(mean) if spread is None else spread,
    )
    rows = list(parts.threshold)
    distances = _leave_one_out(memory, images[rows], groups[rows], len(parts.statistics), total, progress)
    standardised = detector.standardise(distances)
    scores, maxima = detector.pooled(standardised).tolist(), standardised.amax((1, 2, 3)).tolist()
    calibration = Calibration(
        threshold=conformal_threshold(scores, false_alarm_rate),
        false_alarm_rate=false_alarm_rate,
        n=len(scores),
        heat_low=float(np.median(maxima)),
        heat_high=conformal_threshold(maxima, false_alarm_rate) + 1e-6,
    )
    counts = ImageCounts(train=len(parts.statistics), selection=0, calibration=len(parts.threshold))
    record = TrainingRecord(images=counts, versions=versions())
    detector.config = detector.config.model_copy(update={"calibration": calibration, "training": record})
    return detector.eval()


def _groups(cells: Tensor) -> tuple[Tensor, list[int]]:
    """Give equal images the same group, and list the first image of each group.

    A copy of an image in the memory would make its leave-one-out distance 0.
    """
    seen: dict[bytes, int] = {}
    groups = [seen.setdefault(image.numpy().tobytes(), index) for index, image in enumerate(cells)]
    return torch.tensor(groups), sorted(seen.values())


def _divide(different: Sequence[int], false_alarm_rate: float, seed: int) -> _Parts:
    """Divide images that differ between the two purposes.

    Raises:
        ConfigError: There are too few images for the rate.
    """
    needed, count = normals_needed(false_alarm_rate), len(different)
    if count < max(needed, 2):
        raise ConfigError(
            f"needs {max(needed, 2)} different normal images, there are {count}; give more images or a rate of"
            f" {rate_in_reach(count):g} or more",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    held = max(needed, round(count * _THRESHOLD_SHARE))
    if count - held < LEAST_STATISTICS:
        return _Parts((), tuple(different))
    order = torch.randperm(count, generator=generator_for(seed, "closed form")).tolist()
    shuffled = [different[index] for index in order]
    return _Parts(tuple(sorted(shuffled[held:])), tuple(sorted(shuffled[:held])))


def _leave_one_out(
    memory: PatchMemory, images: Tensor, groups: Tensor, done: int, total: int, progress: ProgressReporter
) -> Tensor:
    """Distances of images to the memory without themselves and their copies, (n, 1, sites, sites)."""
    found = []
    with torch.no_grad():
        for index in range(len(images)):
            row = slice(index, index + 1)
            found.append(memory.nearest(images[row], groups[row]))
            progress.update(done + index + 1, total)
    return torch.cat(found)
