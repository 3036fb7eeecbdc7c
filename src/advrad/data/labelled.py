"""Labelled test images from any source: a folder, a datamodule, or arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.arrays import pixels_of
from advrad.data.copies import fingerprints
from advrad.data.framing import Framing, as_framing
from advrad.data.images import examine
from advrad.data.layouts import Dataset, ImageSource, find_records
from advrad.data.loading import ImageStack, load_images, load_masks
from advrad.data.mask_checks import check_masks
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.shapes import check_shapes
from advrad.data.splits import sample_test_records, sample_tests
from advrad.data.trained_images import trained_on, training_prints, warn_of_shared, warn_of_trained
from advrad.errors import DataError, ImageError

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.data.arrays import ImageInput

    DataSource = ImageSource | Dataset | tuple[ImageInput, Any]
    """Where labelled images come from: a folder, ``FILE.py:NAME``, a datamodule, records that were found before, or
    a pair of images of one size, such as (n, 3, h, w) float in [0, 1], and labels, (n,) with 0 for normal and 1 for
    anomalous."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Test images of one size with their labels.

    Attributes:
        pixels: Images, (n, c, h, w), float32 in [0, 1]; or an image stack, which holds them on disk.
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        names: Names of the images, n different ones; relative paths for files.
        defects: Defect names, n; ``good`` for normal images.
        category: Name of the product.
        records: Files of the images, n; empty for images in memory.
        masks: Ground-truth masks, (n, h, w) bool; None if there are none, or they were not asked for.
        mask_known: Whether the mask of each image is known, (n,) bool; None without masks.
        skipped: Errors of the files that were left out.
        notes: Messages for the user, such as images without a mask.
        warnings: What makes figures doubtful, such as images of another shape than those of the training.
        windows: Rows and columns of each working image that show the image, n; empty if nothing is padded.

    Example:
        >>> import torch
        >>> from advrad.data.labelled import load_labelled
        >>> data = load_labelled((torch.rand(4, 3, 32, 32), [0, 0, 1, 1]))
        >>> len(data), data.defects
        (4, ('good', 'good', 'anomaly', 'anomaly'))
    """

    pixels: Tensor | ImageStack
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    defects: tuple[str, ...]
    category: str
    records: tuple[Record, ...] = ()
    masks: npt.NDArray[np.bool_] | None = None
    mask_known: npt.NDArray[np.bool_] | None = None
    skipped: tuple[ImageError, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    windows: tuple[tuple[slice, slice], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images in memory, (n, c, h, w), float32 in [0, 1]."""
        return self.batch(slice(None))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.pixels.values.shape[2:] if isinstance(self.pixels, ImageStack) else self.pixels.shape[2:]
        return int(height), int(width)

    def batch(self, indices: slice | Sequence[int]) -> Tensor:
        """Some images, (b, c, h, w), float32 in [0, 1].

        Args:
            indices: Positions of the images.
        """
        return self.pixels.batch(indices) if isinstance(self.pixels, ImageStack) else self.pixels[indices]

    def check_size(self, size_px: int | None) -> None:
        """Check that the images have the size that a detector needs.

        Args:
            size_px: Side of the square in pixels; None if every size will do.

        Raises:
            DataError: The images have another size.
        """
        height, width = self.size
        if size_px is not None and (height, width) != (size_px, size_px):
            raise DataError(
                f"the images have {width} x {height} px, but the detector takes {size_px} x {size_px} px; resize them"
            )


def load_labelled(
    data: DataSource,
    size_px: Framing | int = 256,
    options: DataOptions = DataOptions(),
    limit: int | None = None,
    seed: int = 0,
    *,
    masks: bool = True,
    both_classes: bool = True,
    colour: bool = True,
    seen: Collection[str] = (),
    compare_training: bool = False,
) -> LabelledImages:
    """Load the test images of a data set with their labels.

    Args:
        data: Folder of images, ``FILE.py:NAME`` for a datamodule in a Python file, a datamodule, the records of a
            data set, or a pair of images of one size, as :func:`advrad.data.arrays.pixels_of` takes them, and labels,
            (n,) of 0 (normal) and 1 (anomalous).
        size_px: How image files become working images, or the side of a square to which they are stretched. Files of
            another shape than those of the training are refused, or named in ``warnings``. Images in memory keep their
            size.
        options: How image files are found and read.
        limit: Number of images, half of them normal; None for all.
        seed: Seed for the choice of these images.
        masks: Whether to load ground-truth masks.
        both_classes: Whether images of both classes must be there.
        colour: Whether one channel of images in memory is repeated to three; see :func:`advrad.data.arrays.pixels_of`.
        seen: Digests of the images that the detector was made from; test images among them are named in ``warnings``.
        compare_training: Whether to read the training images of the data set as well, to name test images that look
            like them, and to doubt masks.

    Raises:
        ConfigError: An option does not fit the data.
        DataError: The data cannot be used: no test images, images of one class only, or images in memory of the wrong
            shape, type or range.
        ImageError: An image or a mask cannot be read, unless ``options.skip_bad``.
    """
    if isinstance(data, tuple):
        return _from_arrays(
            data, limit, seed, both_classes, colour, as_framing(size_px).with_white(options.value_range)
        )
    dataset = data if isinstance(data, Dataset) else find_records(data, options)
    wanted = _wanted(dataset, limit, seed, both_classes)
    framing = as_framing(size_px)
    checked = check_shapes(wanted, framing.trained, options.max_pixels)
    if checked.refused and (not options.skip_bad or not checked.records):
        raise checked.refused[0]
    stack = load_images(checked.records, framing, options)
    records = stack.records
    labels = _labels(records, dataset, both_classes)
    truth, known = load_masks(records, framing, options) if masks else (None, None)
    names = tuple(_name(record, dataset.root) for record in records)
    trained = trained_on(records, seen, stack.values)
    warnings = [*dataset.warnings, *checked.warnings, *stack.warnings, *warn_of_trained(names, trained)]
    windows = _windows(records, framing, options.max_pixels)
    notes = list(stack.notes)
    if compare_training:
        prints, training = fingerprints(stack.values), training_prints(dataset, framing, options)
        if training is not None and not trained:
            warnings += warn_of_shared(prints, labels, names, *training)
        if truth is not None and known is not None:
            checks = check_masks(records, names, truth, known, prints.small, windows, options.max_pixels)
            notes += checks.empty()
            warnings += checks.warnings(prints.small[:0] if training is None else training[0].small)
    return LabelledImages(
        stack,
        labels,
        names,
        tuple(record.defect for record in records),
        dataset.category,
        records,
        truth,
        known,
        (*checked.refused, *stack.skipped),
        tuple(notes),
        tuple(warnings),
        windows,
    )


def _wanted(dataset: Dataset, limit: int | None, seed: int, both_classes: bool) -> tuple[Record, ...]:
    """The test images of a data set that are used."""
    wanted = tuple(record for record in dataset.records if record.split == "test")
    if both_classes or (limit is not None and limit < len(wanted)):
        wanted = sample_test_records(wanted, limit, seed, dataset.root)
    if not wanted:
        raise DataError(
            f"{dataset.root}: has no test images; add some, as test/good and test/<defect>, or as good/ and <defect>/"
        )
    return wanted


def _labels(records: Sequence[Record], dataset: Dataset, both_classes: bool) -> npt.NDArray[np.int64]:
    """Labels of the images that can be read."""
    labels = np.array([record.label for record in records], dtype=np.int64)
    if both_classes:
        _check_classes(labels, str(dataset.root))
    return labels


def _windows(records: Sequence[Record], framing: Framing, max_pixels: int) -> tuple[tuple[slice, slice], ...]:
    """Rows and columns of the working images that are not padding; empty if nothing is padded."""
    if not framing.pad:
        return ()
    infos = [examine(record.path, max_pixels) for record in records]
    return tuple(framing.window(info.height_px, info.width_px) for info in infos)


def _name(record: Record, root: Path) -> str:
    return record.path.relative_to(root).as_posix()


def _from_arrays(
    data: tuple[Any, ...], limit: int | None, seed: int, both_classes: bool, colour: bool, framing: Framing
) -> LabelledImages:
    """Check a pair of images and labels."""
    if len(data) != 2:
        raise DataError(f"data: is a tuple of {len(data)}; give a pair of images and labels")
    images = pixels_of(data[0], colour=colour, framing=framing)
    labels = _checked_labels(data[1], len(images))
    if both_classes:
        _check_classes(labels, "labels")
    defects = ["anomaly" if label else "good" for label in labels]
    names = [f"{index:05}" for index in range(len(images))]
    chosen = sample_tests(labels.tolist(), defects, limit, seed) if limit is not None else tuple(range(len(images)))
    return LabelledImages(
        images[list(chosen)],
        labels[list(chosen)],
        tuple(names[index] for index in chosen),
        tuple(defects[index] for index in chosen),
        "images",
    )


def _checked_labels(given: Any, count: int) -> npt.NDArray[np.int64]:
    labels = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    if labels.shape != (count,):
        raise DataError(f"labels: have the shape {labels.shape}; give one for each of the {count} images")
    if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise DataError("labels: must be 0 for normal and 1 for anomalous")
    return labels.astype(np.int64)


def _check_classes(labels: npt.NDArray[np.int64], source: str) -> None:
    if labels.all() or not labels.any():
        missing = "normal" if labels.all() else "anomalous"
        raise DataError(f"{source}: no {missing} test images; both classes are needed, normal and anomalous")
