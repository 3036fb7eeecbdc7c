"""Read the images of a data set one by one, and collect what an inspection tells of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advrad.data import shortcuts
from advrad.data.copies import Copy, Fingerprints, describe_copies, find_copies, fingerprints, likeness
from advrad.data.images import Array, ImageInfo, read_and_examine
from advrad.data.loading import read_checked_mask, resize_array
from advrad.data.mask_checks import MaskChecks, Small, doubt_mask, small_mask
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.shapes import ShapeChoice, ShapeRecord, choose_shape
from advrad.data.trained_images import warn_of_shared
from advrad.data.value_range import doubts
from advrad.errors import ImageError


@dataclass(frozen=True, slots=True)
class ExaminedMask:
    """A mask that was read.

    Attributes:
        doubt: Doubt of the mask by itself; None for none.
        small: Small mask.
    """

    doubt: str | None
    small: Small


@dataclass(frozen=True, slots=True)
class ExaminedImage:
    """An image that was read, and its mask.

    Attributes:
        read: The image, with its size, pixel type and values; or the error.
        mask: The mask, or its error; None if there is none.
    """

    read: tuple[Array, ImageInfo] | ImageError
    mask: ExaminedMask | ImageError | None = None


def examine_record(record: Record, size_px: int, options: DataOptions) -> ExaminedImage:
    """Read an image and its mask.

    Args:
        record: The image.
        size_px: Side of the square to which the image will be scaled.
        options: How images are read.
    """
    max_pixels, white = options.max_pixels, options.value_range
    try:
        read = read_and_examine(record.path, max_pixels, at_least_px=size_px, value_range=white)
    except ImageError as error:
        # The mask cannot be checked without its image, so only the image is named.
        return ExaminedImage(error)
    if record.mask is None:
        return ExaminedImage(read)
    mask = read_checked_mask(record.path, record.mask, max_pixels)
    if isinstance(mask, ImageError):
        return ExaminedImage(read, mask)
    return ExaminedImage(read, ExaminedMask(doubt_mask(mask, record.mask, max_pixels), small_mask(mask)))


@dataclass
class Findings:
    """What is found in the images of a data set, image after image.

    Attributes:
        root: Folder of the data set, to which names are relative.
        counts: Number of images by split and defect.
        masks: Number of masks of anomalous images by what is wrong with them.
        infos: Size, pixel type and values of the images that can be read.
        broken: Errors of images and masks.
        readable: Images that can be read.
    """

    root: Path
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "test": Counter()})
    masks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("usable", "empty", "missing", "broken"), 0))
    infos: list[ImageInfo] = field(default_factory=list)
    broken: list[ImageError] = field(default_factory=list)
    readable: list[Record] = field(default_factory=list)
    _unreadable: int = 0
    _statistics: list[shortcuts.Statistics] = field(default_factory=list)
    _prints: list[Fingerprints] = field(default_factory=list)
    _checks: MaskChecks = field(default_factory=MaskChecks)

    def add(self, record: Record, examined: ExaminedImage, size_px: int) -> None:
        """Take an image.

        Args:
            record: The image.
            examined: What was read of it.
            size_px: Side of the square to which it is scaled.
        """
        self.counts[record.split][record.defect] += 1
        if isinstance(examined.read, ImageError):
            self.broken.append(examined.read)
            self._unreadable += record.split == "train" and record.label == 0
            return
        image, info = examined.read
        small = resize_array(image, size_px)[None]
        prints = fingerprints(np.rint(small * 65535).astype(np.uint16))
        self._statistics.append(shortcuts.image_statistics(small))
        self._prints.append(prints)
        self.infos.append(info)
        self.readable.append(record)
        mask = examined.mask
        if isinstance(mask, ImageError):
            self.broken.append(mask)
            self.masks["broken"] += 1
        elif record.label == 1 and mask is not None:
            self.masks["usable" if mask.small.any() else "empty"] += 1
            self._checks.add(self._name(record), mask.doubt, mask.small, prints.small[0])
        elif record.label == 1:
            self.masks["missing"] += 1

    @property
    def unreadable_normals(self) -> int:
        """Number of normal training images that cannot be read."""
        return self._unreadable

    def copies(self) -> tuple[Copy, ...]:
        """Normal training images that are copies of others, by position among those that can be read."""
        return find_copies(self._taken(self._normals()))

    def warnings(self, copies: tuple[Copy, ...]) -> list[str]:
        """Warn of copies, of masks and of the range of the values.

        Args:
            copies: Copies among the normal images.
        """
        normals = self._normals()
        texts = [*doubts(info.levels for info in self.infos if info.levels is not None)]
        if copies:
            pairs = describe_copies(copies, [self._name(self.readable[row]) for row in normals])
            texts.append(
                f"normal images that are copies of others: {len(copies)} of {len(normals)} ({pairs}); training leaves"
                " them out, because each image counts once"
            )
        fingerprints = self._taken(normals)
        if len(normals) > 1 and (levels := likeness(fingerprints)) < 1:
            texts.append(
                f"the normal images hardly differ from each other, by {levels:.2g} of 255 levels once small: they may"
                " show one piece again and again, and an image of another piece will be called defective; add images of"
                " other pieces, taken at other times"
            )
        texts += self._shared(normals)
        return [*texts, *self._checks.warnings(fingerprints.small)]

    def notes(self) -> list[str]:
        """Notes on empty masks, and on what training does to the shapes of the images."""
        shape = self.shape()
        return [*self._checks.empty(), *([] if shape is None or shape.note is None else [shape.note])]

    def shape(self) -> ShapeChoice | None:
        """What training does to the shapes of the images unless the user chooses; None without images."""
        sizes = [(info.width_px, info.height_px) for info in self.infos]
        return choose_shape(ShapeRecord.of(sizes)) if sizes else None

    def separations(self, seed: int) -> tuple[tuple[shortcuts.Separation, ...], tuple[shortcuts.Separation, ...]]:
        """How well statistics separate normal from anomalous test images, and normal test from training images.

        Args:
            seed: Seed of the bootstrap intervals.
        """
        if not self.readable:
            return (), ()
        statistics = shortcuts.join_statistics(self._statistics)
        anomalous = np.array([record.label == 1 for record in self.readable])
        test = np.array([record.split == "test" for record in self.readable])

        def separate(second: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> tuple[shortcuts.Separation, ...]:
            chosen = {name: values[among] for name, values in statistics.items()}
            return shortcuts.separations(second[among], chosen, seed=seed)

        return separate(anomalous, test), separate(~test, ~anomalous)

    def _normals(self) -> list[int]:
        """Positions of the normal training images."""
        return [row for row, record in enumerate(self.readable) if record.split == "train" and record.label == 0]

    def _shared(self, normals: list[int]) -> list[str]:
        """Warn of test images that are copies of training images, or of test images with the other label."""
        tested = [row for row, record in enumerate(self.readable) if record.split == "test"]
        names = [self._name(self.readable[row]) for row in tested]
        labelled = [self.readable[row].label for row in tested]
        trained = [self._name(self.readable[row]) for row in normals]
        texts = warn_of_shared(self._taken(tested), labelled, names, self._taken(normals), trained)
        labels: dict[bytes, set[int]] = {}
        for row in tested:
            labels.setdefault(self._prints[row].digests[0], set()).add(self.readable[row].label)
        if both := sum(len(found_labels) > 1 for found_labels in labels.values()):
            texts.append(f"images that are normal and anomalous test images at once: {both}; remove one of each")
        return texts

    def _taken(self, rows: list[int]) -> Fingerprints:
        """Fingerprints of some images."""
        parts = [self._prints[row] for row in rows]
        empty = np.zeros((0, 1, 1), dtype=np.float32)
        return Fingerprints(
            tuple(part.digests[0] for part in parts), np.concatenate([part.small for part in parts]) if parts else empty
        )

    def _name(self, record: Record) -> str:
        return record.path.relative_to(self.root).as_posix()
