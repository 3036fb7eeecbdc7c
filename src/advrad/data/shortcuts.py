"""What can be told of images without looking at what they show: how bright, contrasty and sharp they are.

Where such a number separates good from defective test images, a detector that merely follows it looks good
without seeing a defect. Where it separates good training images from good test images, light or camera have
changed between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad import metrics

STRONG = 0.8
"""A statistic is worth a warning where its interval lies above this AUROC."""

ENOUGH = 5
"""A warning needs so many images in each group. The bootstrap cannot see how few they are: with three on each side
noise alone warned in 10 % of 2,000 trials, with five in 1 %."""

_COMPARED = {
    "brightness": ("are darker", "are brighter"),
    "contrast": ("have less contrast", "have more contrast"),
    "sharpness": ("are less sharp", "are sharper"),
}

Statistics = Mapping[str, npt.NDArray[np.float64]]
"""Statistics by name, each (n,): one number per image."""


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one statistic alone tells two groups of images apart.

    Attributes:
        statistic: its name.
        auroc: in [0.5, 1], whichever group has the larger values.
        interval: 95 % bootstrap interval of the AUROC, in [0, 1]; the direction stays that of all images.
        direction: how the first group compares with the second, such as ``are darker``.
        images: number in the smaller group.
    """

    statistic: str
    auroc: float
    interval: tuple[float, float]
    direction: str
    images: int

    @property
    def strong(self) -> bool:
        """Whether it is worth a warning: the interval lies above ``STRONG``, and there are ``ENOUGH`` images."""
        return self.interval[0] > STRONG and self.images >= ENOUGH


def describe(images: npt.NDArray[np.floating[Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """Measure images; each by itself.

    Args:
        images: (n, 3, h, w) in [0, 1], of one size, h and w >= 3.

    Returns:
        Of the grey image, the mean of the three colours: ``brightness``, its mean in [0, 1]; ``contrast``, its
        standard deviation in [0, 0.5]; ``sharpness``, the mean size of its Laplacian in [0, 4], over the pixels
        that have four neighbours. Each (n,).
    """
    grey = images.mean(axis=1, dtype=np.float64)
    neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": np.abs(4 * grey[:, 1:-1, 1:-1] - neighbours).mean(axis=(1, 2)),
    }


def gather(parts: Sequence[Statistics]) -> dict[str, npt.NDArray[np.float64]]:
    """Put the results of :func:`describe` for one batch after another together, in order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in _COMPARED}


def separations(second: npt.ArrayLike, statistics: Statistics, *, seed: int = 0) -> tuple[Separation, ...]:
    """Measure how well each statistic alone tells two groups apart; the order of the images does not matter.

    Args:
        second: (n,) 0 or False for an image of the first group, 1 or True for one of the second.
        statistics: by the names that :func:`describe` gives, each (n,) finite.
        seed: of the intervals' resampling.

    Returns:
        One for each statistic, the best first; none where a group is empty.

    Raises:
        DataError: lengths differ, or a value is not finite.
    """
    label = np.asarray(second, dtype=np.bool_)
    images = min(int(label.sum()), int((~label).sum()))
    if not images:
        return ()
    found = []
    for name, values in statistics.items():
        first_is_larger = metrics.auroc(label, values) < 0.5
        rising = -values if first_is_larger else values
        # The resampling picks by position, and the order of the images must not matter.
        order = np.argsort(rising)
        interval = metrics.auroc_interval(label[order], rising[order], seed=seed)
        direction = _COMPARED[name][first_is_larger]
        found.append(Separation(name, metrics.auroc(label, rising), interval, direction, images))
    return tuple(sorted(found, key=lambda each: -each.auroc))


def areas(found: Sequence[Separation]) -> dict[str, float]:
    """The AUROC of each statistic, by its name, as plain JSON values."""
    return {each.statistic: each.auroc for each in found}


def warn_of_shortcuts(good_against_defective: Sequence[Separation]) -> list[str]:
    """Say what tells good from defective test images besides the defects.

    Args:
        good_against_defective: the good ones are the first group.

    Returns:
        One text of two sentences, or nothing where no statistic is strong.
    """
    strong = [each for each in good_against_defective if each.strong]
    if not strong:
        return []
    told = _listed(strong, "tells good from defective test images", "good ones")
    compare = "this one" if len(strong) == 1 else "these"
    meaning = f"A detector may score well here without seeing a defect; compare its figure with {compare}."
    return [f"{told}. {meaning}"]


def warn_of_conditions(test_against_training: Sequence[Separation]) -> list[str]:
    """Say what tells good test images from good training images.

    Args:
        test_against_training: the test images are the first group; all are good.

    Returns:
        One text of two sentences, or nothing where no statistic is strong.
    """
    strong = [each for each in test_against_training if each.strong]
    if not strong:
        return []
    told = _listed(strong, "tells good training images from good test images", "those for testing")
    return [
        f"{told}. The two seem to have been taken under different conditions, so the promised false-alarm rate need"
        " not hold on the test images."
    ]


def _listed(strong: Sequence[Separation], tells: str, first: str) -> str:
    """Such as: Brightness alone tells ... with AUROC 0.991 (good ones are darker), contrast alone with 0.9 (...)."""
    best, *others = [(each.statistic, f"{each.auroc:.3f} ({first} {each.direction})") for each in strong]
    parts = [f"{best[0].capitalize()} alone {tells} with AUROC {best[1]}"]
    parts += [f"{statistic} alone with {words}" for statistic, words in others]
    return ", ".join(parts)
