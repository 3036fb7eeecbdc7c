"""Inspect a data set before training: counts, sizes, broken files, and shortcuts that would spoil an evaluation."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from advrad.data import shortcuts
from advrad.data.account import Account
from advrad.data.findings import Findings, examine_record
from advrad.data.layouts import Dataset, ImageSource, find_records
from advrad.data.loading import map_ahead
from advrad.data.options import DataOptions
from advrad.data.splits import (
    MIN_NORMALS,
    MemorySplit,
    most_for_memory,
    normals_needed,
    normals_to_train,
    rate_in_reach,
    split_for_memory,
    split_sizes,
)
from advrad.data.sufficiency import NormalCount, kept_for_testing, refusal
from advrad.errors import DataError, ImageError
from advrad.utils.progress import SILENT, ProgressReporter

#: Number of tests between which the false-alarm rate is divided: of the memory, and of the features beside it.
_HALVES = 2


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
        features: The same beside a detector on features, with thresholds for both; None if they are too few.
        split: Number of readable normal images for ``train``, ``selection`` and ``calibration`` of a learned denoiser;
            None if they are too few.
        false_alarm_rate: False-alarm rate for which the normal images are divided.
        needed: Number of different normal images that this rate needs, with ``closed_form``, ``features`` and
            ``learned``; without ``features`` if the images would be cut into tiles, which these do not take.
        rates: Lowest false-alarm rate that the images allow, with the same keys; without one of them, there are too few
            images for any rate.
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
    features: MemorySplit | None
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
            "features": None if self.features is None else asdict(self.features),
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
    found = _read(dataset, options, size_px, progress)
    copies = found.copies()
    different = sum(record.split == "train" and record.label == 0 for record in found.readable) - len(copies)
    count = NormalCount(different, kept_for_testing(dataset), len(copies), found.unreadable_normals)
    notes = [*dataset.notes, *found.notes()]
    used = min(different, most_for_memory(false_alarm_rate))
    if used < different:
        notes.append(f"the closed form uses {used} of the normal images, drawn at random; more are not needed")
    rates = {"closed_form": rate_in_reach(used)} if used > 1 else {}
    split = None
    if different >= MIN_NORMALS:
        split = dict(zip(("train", "selection", "calibration"), split_sizes(different, false_alarm_rate), strict=True))
        rates["learned"] = rate_in_reach(split["calibration"])
    shape = found.shape()
    tiles = shape is not None and shape.shape == "tiles"
    guarded = 0 if tiles else min(different, most_for_memory(false_alarm_rate / _HALVES))
    if guarded > _HALVES:
        rates["features"] = rate_in_reach(guarded, _HALVES)
    refused = refusal(count, false_alarm_rate, tiles=tiles)
    foretold = [] if refused is None else [f"advrad train will refuse: {refused}"]
    notes += _refused_with(count, false_alarm_rate, tiles=tiles)
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
        features=split_for_memory(guarded, false_alarm_rate / _HALVES),
        split=split,
        false_alarm_rate=false_alarm_rate,
        needed=_needed(false_alarm_rate, tiles=tiles),
        rates=rates,
        shortcuts=shortcuts.aurocs(classes),
        conditions=shortcuts.aurocs(conditions),
        notes=tuple(notes),
        warnings=(
            *foretold,
            *dataset.warnings,
            *found.warnings(copies),
            *shortcuts.warn_of_shortcuts(classes),
            *shortcuts.warn_of_conditions(conditions),
        ),
    )


def _read(dataset: Dataset, options: DataOptions, size_px: int, progress: ProgressReporter) -> Findings:
    """Read every image and mask."""
    found = Findings(dataset.root)
    work = map_ahead(partial(examine_record, size_px=size_px, options=options), dataset.records)
    with closing(work):
        for done, (record, examined) in enumerate(zip(dataset.records, work, strict=True), start=1):
            found.add(record, examined, size_px)
            progress.update(done, len(dataset.records))
    if not found.infos:
        raise DataError(f"none of the {len(dataset.records)} images can be read; the first is {found.broken[0]}")
    return found


def _needed(false_alarm_rate: float, *, tiles: bool) -> dict[str, int]:
    """Number of different normal images that a false-alarm rate needs, with each kind of detector."""
    needed = {"closed_form": max(2, normals_needed(false_alarm_rate)), "learned": normals_to_train(false_alarm_rate)}
    return needed if tiles else needed | {"features": normals_needed(false_alarm_rate / _HALVES)}


def _refused_with(count: NormalCount, false_alarm_rate: float, *, tiles: bool) -> list[str]:
    """What a training with a learned denoiser, and one with features, would refuse."""
    beside = "the images would be cut into tiles" if tiles else refusal(count, false_alarm_rate, tests=_HALVES)
    reasons = {"minutes or steps": refusal(count, false_alarm_rate, learned=True), "features": beside}
    return [f"train with {options} will refuse: {reason}" for options, reason in reasons.items() if reason]


def _range(sizes: list[int]) -> SizeRange | None:
    return SizeRange(min(sizes), median(sizes), max(sizes)) if sizes else None
