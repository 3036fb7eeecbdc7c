"""A digest of the images of a data set: it tells whether a model was made from them as they are now."""

from __future__ import annotations

import hashlib

from advrad.data import cache
from advrad.data.layouts import Dataset
from advrad.data.mask_files import mask_paths


def image_digest(dataset: Dataset) -> str:
    """Digest of the contents and labels of all images and masks of a data set.

    Args:
        dataset: The images; their names count from the folder of the data set on.
    """
    total = hashlib.sha256()
    for record in dataset.records:
        name = record.path.relative_to(dataset.root).as_posix()
        total.update(f"{name}|{record.split}|{record.label}|{record.defect}|".encode("utf-8", "surrogateescape"))
        for path in (record.path, *([None] if record.mask is None else mask_paths(record.mask))):
            total.update((None if path is None else cache.digest(path)) or b"-")
    return total.hexdigest()
