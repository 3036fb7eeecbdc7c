"""Compare the normal images of a product among each other: light or camera may differ between folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advrad.data import shortcuts
from advrad.data.layouts import Dataset
from advrad.data.loading import load_images
from advrad.data.options import DataOptions
from advrad.data.records import Record

#: Side of the square at which images are compared; sharpness depends on it.
SIZE_PX = 256
#: Most images that are compared; more tell nothing new.
MOST = 400
#: Fewest images of a folder that is compared with the others.
_LEAST = 10
#: Images that are looked at at once.
_BATCH = 32


def warn_of_drift(dataset: Dataset, options: DataOptions, seed: int = 0) -> list[str]:
    """Warn of normal images of different folders that were not taken under the same conditions.

    Compared are normal test images with normal training images, and each folder of training images, such as one for
    each day, with the other folders.

    Args:
        dataset: The images.
        options: How they are read.
        seed: Seed of the bootstrap intervals.

    Returns:
        Warnings, a sentence or two each.

    Raises:
        ImageError: An image cannot be read, unless ``options.skip_bad``.
    """
    train = _thinned([record for record in dataset.records if record.split == "train" and record.label == 0])
    test = _thinned([record for record in dataset.records if record.split == "test" and record.label == 0])
    records, statistics = _statistics(train, options)
    found = _between_folders(records, dataset.root, statistics, seed)
    if test:
        tested, of_test = _statistics(test, options)
        joined = shortcuts.join_statistics([of_test, statistics])
        second = np.repeat([False, True], [len(tested), len(records)])
        found += shortcuts.warn_of_conditions(shortcuts.separations(second, joined, seed=seed))
    return found


def _between_folders(records: Sequence[Record], root: Path, statistics: shortcuts.Statistics, seed: int) -> list[str]:
    """Warn of folders of training images that differ from all others."""
    folders = [record.path.parent for record in records]
    found = []
    for folder in sorted(set(folders)):
        others = np.array([one != folder for one in folders])
        if min(int(others.sum()), int((~others).sum())) < _LEAST:
            continue
        strong = [each for each in shortcuts.separations(others, statistics, seed=seed) if each.strong]
        if strong:
            parts = ", ".join(f"{each.statistic} (AUROC {each.auroc:.3f}, they {each.direction})" for each in strong)
            found.append(
                f"The normal images in {folder.relative_to(root).as_posix()} differ from those of the other folders in"
                f" {parts}. Light, lens or camera seem to have changed; images of later days may be called defective"
                " more often than promised."
            )
    return found


def _statistics(records: Sequence[Record], options: DataOptions) -> tuple[tuple[Record, ...], shortcuts.Statistics]:
    """The images that can be read, and their brightness, contrast and sharpness."""
    images = load_images(records, SIZE_PX, options)
    parts = [
        shortcuts.image_statistics(images.batch(range(start, min(start + _BATCH, len(images)))).numpy())
        for start in range(0, len(images), _BATCH)
    ]
    return images.records, shortcuts.join_statistics(parts)


def _thinned(records: list[Record]) -> list[Record]:
    """Images spread evenly over all, no more than are needed, in the order of their paths."""
    ordered = sorted(records, key=lambda record: record.path.as_posix())
    if len(ordered) <= MOST:
        return ordered
    return [ordered[place] for place in np.linspace(0, len(ordered) - 1, MOST).round().astype(int)]
