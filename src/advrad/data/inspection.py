"""What a data set holds, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad.data import cache, shortcuts
from advrad.data.images import ImageInfo, read_and_examine
from advrad.data.layouts import Dataset
from advrad.data.loading import _ahead, _mask, _resized
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.splits import split_normals
from advrad.errors import DataError, ImageError
from advrad.utils.progress import SILENT, ProgressReporter


def inspect(
    dataset: Dataset,
    options: DataOptions = DataOptions(),
    *,
    seed: int = 0,
    false_alarm_rate: float = 0.05,
    size_px: int = 256,
    progress: ProgressReporter = SILENT,
) -> dict[str, Any]:
    """Read every image and mask of a data set and say what is there, as plain JSON values.

    Args:
        dataset: as of :func:`advrad.data.layouts.find_records`.
        options: Bound on each image and mask.
        seed: of the split, and of the resampling behind the warnings.
        false_alarm_rate: for which the normals are split, in (0, 1).
        size_px: side of the square at which images are compared with each other, >= 3; sharpness depends on it.
        progress: Receives the progress.

    Returns:
        ``root, layout, category``; ``counts`` by split and defect; ``masks`` (``usable, empty, missing,
        broken``); ``width_px`` and ``height_px`` (``min, median, max``); ``kinds`` of pixels; ``broken``
        images and masks (``path, reason``); ``split`` of the readable normals, or None if they are too few;
        ``shortcuts``, the AUROC by which brightness, contrast or sharpness alone tells good from defective test
        images, and ``conditions``, that of good training images against good test images, both empty where
        a group is; ``notes``; ``warnings``, what to know before any figure is believed.

    Raises:
        ConfigError: ``false_alarm_rate`` is out of range.
    """
    counts: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    masks = dict.fromkeys(("usable", "empty", "missing", "broken"), 0)
    infos: list[ImageInfo] = []
    broken: list[ImageError] = []
    readable: list[Record] = []
    seen: dict[str, set[bytes | None]] = {"train": set(), "test": set()}
    measured: list[shortcuts.Statistics] = []
    work = _ahead(partial(_examined, size_px=size_px, max_pixels=options.max_pixels), dataset.records)
    with closing(work):
        for done, (record, (read, digest, mask)) in enumerate(zip(dataset.records, work, strict=True), start=1):
            counts[record.split][record.defect] += 1
            if isinstance(read, ImageError):
                broken.append(read)
            else:
                image, info = read
                measured.append(shortcuts.describe(_resized(image, size_px)[None]))
                infos.append(info)
                readable.append(record)
                seen[record.split].add(digest)
                if isinstance(mask, ImageError):
                    broken.append(mask)
                    masks["broken"] += 1
                elif record.label == 1:
                    masks["missing" if mask is None else "usable" if mask else "empty"] += 1
            progress.update(done, len(dataset.records))
    notes = list(dataset.notes)
    if shared := len((seen["train"] & seen["test"]) - {None}):
        notes.append(f"images that lie in both train and test, byte for byte: {shared}; the test is not fair")
    if len({round(info.width_px / info.height_px, 1) for info in infos}) > 1:
        notes.append("the images differ in shape; each is squeezed to a square")
    parts = None
    try:
        split = split_normals(readable, seed, false_alarm_rate=false_alarm_rate)
        parts = {name: len(getattr(split, name)) for name in ("train", "selection", "calibration")}
    except DataError as error:
        notes.append(str(error))
    told_apart, conditions = _separations(readable, measured, seed)
    return {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "category": dataset.category,
        "counts": {split: dict(sorted(count.items())) for split, count in counts.items()},
        "masks": masks,
        "width_px": _range([info.width_px for info in infos]),
        "height_px": _range([info.height_px for info in infos]),
        "kinds": dict(Counter(info.kind for info in infos).most_common()),
        "broken": [{"path": str(error.path), "reason": error.reason} for error in broken],
        "split": parts,
        "shortcuts": shortcuts.areas(told_apart),
        "conditions": shortcuts.areas(conditions),
        "notes": notes,
        "warnings": shortcuts.warn_of_shortcuts(told_apart) + shortcuts.warn_of_conditions(conditions),
    }


def _separations(
    records: Sequence[Record], measured: Sequence[shortcuts.Statistics], seed: int
) -> tuple[tuple[shortcuts.Separation, ...], tuple[shortcuts.Separation, ...]]:
    """How well statistics tell good from defective test images, and good test from good training images."""
    if not records:
        return (), ()
    statistics = shortcuts.gather(measured)
    bad = np.array([record.label == 1 for record in records])
    test = np.array([record.split == "test" for record in records])

    def apart(second: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> tuple[shortcuts.Separation, ...]:
        return shortcuts.separations(
            second[among], {name: values[among] for name, values in statistics.items()}, seed=seed
        )

    return apart(bad, test), apart(~test, ~bad)


def _examined(
    record: Record, size_px: int, max_pixels: int
) -> tuple[
    tuple[npt.NDArray[np.float32], ImageInfo] | ImageError,
    bytes | None,
    bool | ImageError | None,
]:
    """An image and what it is, its digest, and whether its mask marks anything."""
    try:
        read = read_and_examine(record.path, max_pixels, at_least_px=size_px)
    except ImageError as error:
        # A mask cannot be judged without its image; only the image is named.
        return error, None, None
    if record.mask is None:
        return read, cache.digest(record.path), None
    mask = _mask(record, max_pixels)
    return read, cache.digest(record.path), mask if isinstance(mask, ImageError) else bool(mask.any())


def _range(sizes: list[int]) -> dict[str, float] | None:
    return {"min": min(sizes), "median": median(sizes), "max": max(sizes)} if sizes else None
