"""Statistics that could give away the label without looking at the product: brightness, contrast and sharpness.

If such a number separates normal from anomalous test images, a detector may score well without seeing a defect. If it
separates normal training images from normal test images, light or camera have changed in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad import metrics

STRONG = 0.8
"""A statistic is worth a warning if the interval of its AUROC lies above this."""

ENOUGH = 5
"""Images in each group that a warning needs. The bootstrap does not account for very few images: with three in each
group, noise alone caused a warning in 10 % of 2,000 trials, with five in 1 %."""

_COMPARED = {
    "brightness": ("are darker", "are brighter"),
    "contrast": ("have less contrast", "have more contrast"),
    "sharpness": ("are less sharp", "are sharper"),
}

Statistics = Mapping[str, npt.NDArray[np.float64]]
"""Statistics of n images, (n,), by name."""


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one statistic alone separates two groups of images.

    Attributes:
        statistic: Name of the statistic.
        auroc: AUROC, in [0.5, 1], whichever group has the larger values.
        interval: 95 % bootstrap interval of the AUROC, in [0, 1], in the direction of all images.
        direction: Comparison of the first group with the second, such as ``are darker``.
        images: Number of images in the smaller group.
    """

    statistic: str
    auroc: float
    interval: tuple[float, float]
    direction: str
    images: int

    @property
    def strong(self) -> bool:
        """Whether it is worth a warning: its interval lies above ``STRONG``, and each group has ``ENOUGH`` images."""
        return self.interval[0] > STRONG and self.images >= ENOUGH


def image_statistics(images: npt.NDArray[np.floating[Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """Compute the statistics of each image.

    Args:
        images: Images, (n, 3, h, w), in [0, 1], h and w >= 3.

    Returns:
        Statistics of the mean over colours, (n,) each: ``brightness``, its mean, in [0, 1]; ``contrast``, its standard
        deviation, in [0, 0.5]; ``sharpness``, the mean absolute Laplacian over inner pixels, in [0, 4].
    """
    grey = images.mean(axis=1, dtype=np.float64)
    neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": np.abs(4 * grey[:, 1:-1, 1:-1] - neighbours).mean(axis=(1, 2)),
    }


def join_statistics(parts: Sequence[Statistics]) -> dict[str, npt.NDArray[np.float64]]:
    """Join the statistics of several batches, in order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in _COMPARED}


def separations(second: npt.ArrayLike, statistics: Statistics, *, seed: int = 0) -> tuple[Separation, ...]:
    """Measure how well each statistic alone separates two groups; the order of the images does not matter.

    Args:
        second: Groups, (n,): 0 or False for the first group, 1 or True for the second.
        statistics: Statistics as :func:`image_statistics` names them, finite.
        seed: Seed of the bootstrap intervals.

    Returns:
        One separation for each statistic, the best first; none if a group is empty.

    Raises:
        DataError: Lengths differ, or a value is not finite.
    """
    label = np.asarray(second, dtype=np.bool_)
    images = min(int(label.sum()), int((~label).sum()))
    if not images:
        return ()
    found = []
    for name, values in statistics.items():
        first_is_larger = metrics.auroc(label, values) < 0.5
        rising = -values if first_is_larger else values
        # Sorted, because the resampling picks positions and the order of the images must not matter.
        order = np.argsort(rising)
        interval = metrics.auroc_interval(label[order], rising[order], seed=seed)
        direction = _COMPARED[name][first_is_larger]
        found.append(Separation(name, metrics.auroc(label, rising), interval, direction, images))
    return tuple(sorted(found, key=lambda each: -each.auroc))


def aurocs(found: Sequence[Separation]) -> dict[str, float]:
    """The AUROC of each statistic, by name."""
    return {each.statistic: each.auroc for each in found}


def warn_of_shortcuts(separations: Sequence[Separation]) -> list[str]:
    """Warn of statistics that separate normal from anomalous test images.

    Args:
        separations: Separations with the normal images as the first group.

    Returns:
        One warning of two sentences, or none.
    """
    strong = [each for each in separations if each.strong]
    if not strong:
        return []
    sentence = _listed(strong, "separates normal from anomalous test images", "normal ones")
    compare = "this one" if len(strong) == 1 else "these"
    meaning = f"A detector may score well here without seeing a defect; compare its AUROC with {compare}."
    return [f"{sentence}. {meaning}"]


def warn_of_conditions(separations: Sequence[Separation]) -> list[str]:
    """Warn of statistics that separate normal test images from normal training images.

    Args:
        separations: Separations with the test images as the first group.

    Returns:
        One warning of two sentences, or none.
    """
    strong = [each for each in separations if each.strong]
    if not strong:
        return []
    sentence = _listed(strong, "separates normal training images from normal test images", "test images")
    return [
        f"{sentence}. The two seem to have been taken under different conditions, so the promised false-alarm rate may"
        " not hold on the test images."
    ]


def _listed(strong: Sequence[Separation], tells: str, first: str) -> str:
    """Such as "Brightness alone separates ... with AUROC 0.991 (normal ones are darker), contrast alone with 0.9"."""
    best, *others = [(each.statistic, f"{each.auroc:.3f} ({first} {each.direction})") for each in strong]
    parts = [f"{best[0].capitalize()} alone {tells} with AUROC {best[1]}"]
    parts += [f"{statistic} alone with {words}" for statistic, words in others]
    return ", ".join(parts)
