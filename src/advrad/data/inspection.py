"""Inspect a data set before training: counts, sizes, broken files, and shortcuts that would spoil an evaluation."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad.data import cache, shortcuts
from advrad.data.account import Account
from advrad.data.images import Array, ImageInfo, read_and_examine
from advrad.data.layouts import Dataset, ImageSource, find_records
from advrad.data.loading import map_ahead, read_checked_mask, resize_array
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.shapes import ShapeRecord, choose_shape
from advrad.data.splits import (
    MemorySplit,
    most_for_memory,
    normals_for_tiles,
    normals_needed,
    normals_to_train,
    rate_in_reach,
    split_for_memory,
    split_normals,
)
from advrad.data.value_range import doubts
from advrad.errors import DataError, ImageError
from advrad.utils.progress import SILENT, ProgressReporter


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Range of a side over all images, in pixels.

    Attributes:
        min: Smallest value.
        median: Median.
        max: Largest value.
    """

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class InspectionResult:
    """Contents of a data set.

    Attributes:
        root: Folder of the product.
        layout: Layout of the folders.
        category: Name of the product.
        account: What every file below the folder is used as, or why it is left out.
        counts: Number of images by split and defect.
        masks: Number of masks of anomalous images: ``usable``, ``empty``, ``missing`` and ``broken``.
        width_px: Widths of the images; None without readable images.
        height_px: Heights of the images; None without readable images.
        kinds: Number of images by pixel type.
        broken: Errors of images and masks that cannot be read.
        closed_form: Division of the different normal images by the closed form; None if they are too few.
        split: Number of readable normal images for ``train``, ``selection`` and ``calibration`` of a learned denoiser;
            None if they are too few.
        false_alarm_rate: False-alarm rate for which the normal images are divided.
        needed: Number of different normal images that this rate needs, with ``closed_form`` and with ``learned``.
        rates: Lowest false-alarm rate that the images allow, with ``closed_form`` and with ``learned``; without one of
            them, there are too few images for any rate.
        shortcuts: AUROC with which brightness, contrast or sharpness alone separates normal from anomalous test images;
            empty without images of both classes.
        conditions: The same for normal training images and normal test images.
        notes: Messages for the user.
        warnings: Problems to know of before any figure is believed.
    """

    root: Path
    layout: str
    category: str
    account: Account
    counts: dict[str, dict[str, int]]
    masks: dict[str, int]
    width_px: SizeRange | None
    height_px: SizeRange | None
    kinds: dict[str, int]
    broken: tuple[ImageError, ...]
    closed_form: MemorySplit | None
    split: dict[str, int] | None
    false_alarm_rate: float
    needed: dict[str, int]
    rates: dict[str, float]
    shortcuts: dict[str, float]
    conditions: dict[str, float]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The contents as JSON values."""

        def sizes(found: SizeRange | None) -> dict[str, float] | None:
            return None if found is None else {"min": found.min, "median": found.median, "max": found.max}

        return {
            "root": str(self.root),
            "layout": self.layout,
            "category": self.category,
            "account": self.account.to_list(),
            "counts": self.counts,
            "masks": self.masks,
            "width_px": sizes(self.width_px),
            "height_px": sizes(self.height_px),
            "kinds": self.kinds,
            "broken": [{"path": str(error.path), "reason": error.reason} for error in self.broken],
            "closed_form": None if self.closed_form is None else asdict(self.closed_form),
            "split": self.split,
            "false_alarm_rate": self.false_alarm_rate,
            "normals_needed": self.needed,
            "lowest_false_alarm_rate": self.rates,
            "shortcuts": self.shortcuts,
            "conditions": self.conditions,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def inspect_dataset(
    data: ImageSource | Dataset,
    options: DataOptions = DataOptions(),
    *,
    seed: int = 0,
    false_alarm_rate: float = 0.05,
    size_px: int = 256,
    progress: ProgressReporter = SILENT,
) -> InspectionResult:
    """Read every image and mask of a data set, and describe what it holds.

    Args:
        data: Folder of images, a datamodule, or the records of a data set.
        options: How the images are found and read.
        seed: Seed of the split, and of the resampling behind the warnings.
        false_alarm_rate: False-alarm rate for which the normal images are split, in (0, 1).
        size_px: Side of the square at which images are compared, >= 3; sharpness depends on it.
        progress: Receives the number of images that were read.

    Raises:
        ConfigError: ``false_alarm_rate`` is out of range.
        DataError: The data set cannot be used.

    Example:
        >>> from advrad.data import inspect_dataset
        >>> inspect_dataset("images").counts["train"]  # doctest: +SKIP
        {'good': 48}
    """
    dataset = data if isinstance(data, Dataset) else find_records(data, options)
    found = _Findings()
    work = map_ahead(partial(_examine, size_px=size_px, options=options), dataset.records)
    with closing(work):
        for done, (record, examined) in enumerate(zip(dataset.records, work, strict=True), start=1):
            found.add(record, examined, size_px)
            progress.update(done, len(dataset.records))
    if not found.infos:
        raise DataError(f"none of the {len(dataset.records)} images can be read; the first is {found.broken[0]}")
    notes = [*dataset.notes, *found.notes(), *found.shape_notes(false_alarm_rate)]
    used = min(found.different_normals, most_for_memory(false_alarm_rate))
    if used < found.different_normals:
        notes.append(f"the closed form uses {used} of the normal images, drawn at random; more are not needed")
    split, rates = None, {"closed_form": rate_in_reach(used)} if used > 1 else {}
    try:
        parts = split_normals(found.readable, seed, false_alarm_rate=false_alarm_rate)
        split = {name: len(getattr(parts, name)) for name in ("train", "selection", "calibration")}
        rates["learned"] = rate_in_reach(split["calibration"])
    except DataError as error:
        notes.append(f"for a learned denoiser: {error}")
    classes, conditions = found.separations(seed)
    return InspectionResult(
        root=dataset.root,
        layout=dataset.layout,
        category=dataset.category,
        account=dataset.account,
        counts={name: dict(sorted(count.items())) for name, count in found.counts.items()},
        masks=found.masks,
        width_px=_range([info.width_px for info in found.infos]),
        height_px=_range([info.height_px for info in found.infos]),
        kinds=dict(Counter(info.kind for info in found.infos).most_common()),
        broken=tuple(found.broken),
        closed_form=split_for_memory(used, false_alarm_rate),
        split=split,
        false_alarm_rate=false_alarm_rate,
        needed={
            "closed_form": max(2, normals_needed(false_alarm_rate)),
            "learned": normals_to_train(false_alarm_rate),
        },
        rates=rates,
        shortcuts=shortcuts.aurocs(classes),
        conditions=shortcuts.aurocs(conditions),
        notes=tuple(notes),
        warnings=(
            *dataset.warnings,
            *found.ranges(),
            *shortcuts.warn_of_shortcuts(classes),
            *shortcuts.warn_of_conditions(conditions),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Examined:
    """An image that was read, or the error; its digest; and whether its mask marks anything, or the mask's error."""

    read: tuple[Array, ImageInfo] | ImageError
    digest: bytes | None = None
    mask: bool | ImageError | None = None


def _examine(record: Record, size_px: int, options: DataOptions) -> _Examined:
    max_pixels, white = options.max_pixels, options.value_range
    try:
        read = read_and_examine(record.path, max_pixels, at_least_px=size_px, value_range=white)
    except ImageError as error:
        # The mask cannot be checked without its image, so only the image is named.
        return _Examined(error)
    if record.mask is None:
        return _Examined(read, cache.digest(record.path))
    mask = read_checked_mask(record.path, record.mask, max_pixels)
    return _Examined(read, cache.digest(record.path), mask if isinstance(mask, ImageError) else bool(mask.any()))


@dataclass
class _Findings:
    """Collects what is found, image after image."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "test": Counter()})
    masks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("usable", "empty", "missing", "broken"), 0))
    infos: list[ImageInfo] = field(default_factory=list)
    broken: list[ImageError] = field(default_factory=list)
    readable: list[Record] = field(default_factory=list)
    digests: dict[str, set[bytes | None]] = field(default_factory=lambda: {"train": set(), "test": set()})
    normals: list[bytes | None] = field(default_factory=list)
    statistics: list[shortcuts.Statistics] = field(default_factory=list)

    @property
    def different_normals(self) -> int:
        """Number of normal training images, byte for byte different."""
        return len(set(self.normals) - {None}) + self.normals.count(None)

    def add(self, record: Record, examined: _Examined, size_px: int) -> None:
        self.counts[record.split][record.defect] += 1
        if isinstance(examined.read, ImageError):
            self.broken.append(examined.read)
            return
        image, info = examined.read
        self.statistics.append(shortcuts.image_statistics(resize_array(image, size_px)[None]))
        self.infos.append(info)
        self.readable.append(record)
        self.digests[record.split].add(examined.digest)
        if record.split == "train" and record.label == 0:
            self.normals.append(examined.digest)
        if isinstance(examined.mask, ImageError):
            self.broken.append(examined.mask)
            self.masks["broken"] += 1
        elif record.label == 1:
            self.masks["missing" if examined.mask is None else "usable" if examined.mask else "empty"] += 1

    def notes(self) -> list[str]:
        notes = []
        if shared := len((self.digests["train"] & self.digests["test"]) - {None}):
            notes.append(f"images that are in both train and test, byte for byte: {shared}; the test is not fair")
        if copies := len(self.normals) - self.different_normals:
            notes.append(f"normal images that are copies, byte for byte: {copies}; the closed form counts them once")
        return notes

    def shape_notes(self, false_alarm_rate: float) -> list[str]:
        """What training does to the shapes of the images; empty where there is nothing to say."""
        if not self.infos:
            return []
        choice = choose_shape(ShapeRecord.of([(info.width_px, info.height_px) for info in self.infos]))
        if choice.shape == "tiles":
            return [f"{choice.note}; this needs {normals_for_tiles(false_alarm_rate)} different normal images"]
        return [] if choice.note is None else [choice.note]

    def ranges(self) -> tuple[str, ...]:
        """Doubts about the range of the values."""
        return doubts(info.levels for info in self.infos if info.levels is not None)

    def separations(self, seed: int) -> tuple[tuple[shortcuts.Separation, ...], tuple[shortcuts.Separation, ...]]:
        """How well statistics separate normal from anomalous test images, and normal test from training images."""
        if not self.readable:
            return (), ()
        statistics = shortcuts.join_statistics(self.statistics)
        anomalous = np.array([record.label == 1 for record in self.readable])
        test = np.array([record.split == "test" for record in self.readable])

        def separate(second: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> tuple[shortcuts.Separation, ...]:
            chosen = {name: values[among] for name, values in statistics.items()}
            return shortcuts.separations(second[among], chosen, seed=seed)

        return separate(anomalous, test), separate(~test, ~anomalous)


def _range(sizes: list[int]) -> SizeRange | None:
    return SizeRange(min(sizes), median(sizes), max(sizes)) if sizes else None
