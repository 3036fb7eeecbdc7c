"""Find test images that a model was made from: their figures say nothing about new images.

A model keeps digests of its training images, 8 bytes each: of the file, and of the pixels at the working size, so that
an image is found that was renamed, moved, or saved in another lossless format. Where the data set holds the training
images, too, the test images are compared with them, also to the eye.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from advrad.data import cache
from advrad.data.copies import Fingerprints, describe_copies, find_shared, fingerprints, pixel_digest
from advrad.data.loading import ImageStack, load_images
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.splits import MOST_IMAGES, shuffle_normals
from advrad.errors import DataError

if TYPE_CHECKING:
    from advrad.data.framing import Framing
    from advrad.data.layouts import Dataset

_NAMED = 3


def digests_of(images: ImageStack) -> tuple[str, ...]:
    """Digests of images by which a model knows them again.

    Args:
        images: Images at the working size.

    Returns:
        Different digests as hexadecimal numbers, sorted: up to two for each image, of its file and of its pixels.
    """
    files = [digest[:8] for record in images.records if (digest := cache.digest(record.path)) is not None]
    return tuple(sorted({digest.hex() for digest in [*files, *map(pixel_digest, images.values)]}))


def trained_on(
    records: Sequence[Record], seen: Collection[str], values: npt.NDArray[np.uint16] | None = None
) -> tuple[int, ...]:
    """Positions of the images that a model was made from.

    Args:
        records: Files of the images, n.
        seen: Digests that the model keeps; empty for older models, which keep none.
        values: The images at the working size of the model, (n, 3, h, w); None to compare the files alone.
    """
    known = frozenset(seen)
    if not known:
        return ()
    found = []
    for row, record in enumerate(records):
        file = cache.digest(record.path)
        in_file = file is not None and file[:8].hex() in known
        if in_file or (values is not None and pixel_digest(values[row]).hex() in known):
            found.append(row)
    return tuple(found)


def warn_of_trained(names: Sequence[str], found: Sequence[int]) -> list[str]:
    """Warn of test images that a model was made from.

    Args:
        names: Names of the test images.
        found: Positions of those that the model was made from, see :func:`trained_on`.

    Returns:
        One warning, or none.

    Example:
        >>> warn_of_trained(["a.png", "b.png"], [1])[0][:66]
        'test images that the model was made from: 1 of 2 (b.png); they are'
    """
    if not found:
        return []
    listed = ", ".join([*(names[row] for row in found[:_NAMED]), *(["..."] if len(found) > _NAMED else [])])
    return [
        f"test images that the model was made from: {len(found)} of {len(names)} ({listed}); they are no test: leave"
        " such copies out"
    ]


def warn_of_same_files(dataset: Dataset) -> list[str]:
    """Warn of test images whose files are those of normal training images, byte for byte. No image is decoded.

    Args:
        dataset: Data set that holds both.

    Returns:
        One warning, or none.
    """
    parts: dict[str, list[Record]] = {"train": [], "test": []}
    for record in dataset.records:
        parts[record.split].append(record)
    if not parts["test"]:
        return []
    trained = {digest: record for record in parts["train"] if (digest := cache.digest(record.path)) is not None}
    found = [(record, trained[digest]) for record in parts["test"] if (digest := cache.digest(record.path)) in trained]
    if not found:
        return []
    pairs = [" is ".join(one.path.relative_to(dataset.root).as_posix() for one in pair) for pair in found[:_NAMED]]
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return [
        f"test images that are copies of training images, byte for byte: {len(found)} of {len(parts['test'])}"
        f" ({'; '.join(pairs)}{more}); they are no test: leave them out"
    ]


def training_prints(
    dataset: Dataset, framing: Framing, options: DataOptions
) -> tuple[Fingerprints, tuple[str, ...]] | None:
    """Read the normal training images of a data set, no more than a training uses, to compare test images with them.

    Args:
        dataset: Data set.
        framing: Working size of the images.
        options: How the images are read.

    Returns:
        Fingerprints and names of the images; None if there are none, or none can be read.
    """
    records = sorted(shuffle_normals(dataset.records, 0)[:MOST_IMAGES], key=lambda record: record.path.as_posix())
    if not records:
        return None
    try:
        images = load_images(records, framing, options.model_copy(update={"skip_bad": True}))
    except DataError:  # none of them can be read
        return None
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in images.records)
    return fingerprints(images.values), names


def warn_of_shared(
    images: Fingerprints, labels: npt.ArrayLike, names: Sequence[str], training: Fingerprints, trained: Sequence[str]
) -> list[str]:
    """Warn of test images that are copies of normal training images; normal ones also to the eye.

    Args:
        images: Fingerprints of the test images, n.
        labels: Their labels, (n,): 0 for normal.
        names: Their names.
        training: Fingerprints of the training images.
        trained: Names of the training images.

    Returns:
        One warning, or none.
    """
    normal = np.asarray(labels) == 0
    # A defect may have been drawn on a training image.
    found = [copy for copy in find_shared(images, training) if copy.exact or normal[copy.row]]
    if not found:
        return []
    return [
        f"images that are in both train and test: {len(found)} of {len(images)} test images"
        f" ({describe_copies(found, names, trained)}); such copies are no test: leave them out"
    ]
