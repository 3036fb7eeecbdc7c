"""Read the normal images of a training: those that can be read, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advrad.data.copies import describe_copies, find_copies, fingerprints
from advrad.data.framing import Framing
from advrad.data.layouts import Dataset
from advrad.data.loading import ImageStack, load_images
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.sufficiency import NormalCount, check_enough, kept_for_testing
from advrad.data.value_range import refuse_flat
from advrad.utils.progress import SILENT, ProgressReporter


@dataclass(frozen=True)
class NormalImages:
    """The normal images of a training.

    Attributes:
        dataset: The data set.
        options: How the images are read.
        false_alarm_rate: Largest share of normal images that may be called anomalous.
        learned: Whether a denoiser is trained, which needs more images than the closed form.
        leave_out_copies: Whether images that are copies of others are left out; models that were trained before this
            was done used them.
        tests: Number of tests between which the false-alarm rate is divided.
    """

    dataset: Dataset
    options: DataOptions
    false_alarm_rate: float
    learned: bool = False
    leave_out_copies: bool = True
    tests: int = 1

    def read(
        self, records: Sequence[Record], size_px: Framing | int, progress: ProgressReporter = SILENT
    ) -> ImageStack:
        """Read images, leave out copies, and check that enough images are left.

        Args:
            records: Normal training images of the data set.
            size_px: Working size of the images.
            progress: Receives the progress, and a message about what is left out.

        Returns:
            The images, in the order of the records.

        Raises:
            ConfigError: There are too few images for the false-alarm rate.
            DataError: There are too few images to train a denoiser, or each shows one single value.
            ImageError: An image cannot be read, and ``options.skip_bad`` is false.
        """
        kept = kept_for_testing(self.dataset)
        tiles = isinstance(size_px, Framing) and size_px.tile_px is not None
        self._check(NormalCount(len(records), kept), tiles)
        progress.stage("Reading images")
        images = load_images(records, size_px, self.options, progress=progress)
        report_skipped(images, progress)
        refuse_flat(images.levels, self.dataset.root)
        given = len(images)
        if self.leave_out_copies:
            images = self._without_copies(images, progress)
        self._check(NormalCount(len(images), kept, given - len(images), len(images.skipped)), tiles)
        return images

    def names_of(self, images: ImageStack) -> tuple[str, ...]:
        """Names of images, relative to the folder of the data set.

        Args:
            images: Images of this data set.
        """
        return tuple(record.path.relative_to(self.dataset.root).as_posix() for record in images.records)

    def _check(self, count: NormalCount, tiles: bool) -> None:
        check_enough(count, self.false_alarm_rate, learned=self.learned, tiles=tiles, tests=self.tests)

    def _without_copies(self, images: ImageStack, progress: ProgressReporter) -> ImageStack:
        """The images without copies of others; a note names what is left out."""
        copies = find_copies(fingerprints(images.values))
        if not copies:
            return images
        progress.note(
            f"normal images that are copies of others are left out: {len(copies)} of {len(images)}"
            f" ({describe_copies(copies, self.names_of(images))})"
        )
        out = {copy.row for copy in copies}
        return images.at([row for row in range(len(images)) if row not in out])


def report_skipped(images: ImageStack, progress: ProgressReporter) -> None:
    """Tell the user about images that were left out, and other notes of reading.

    Args:
        images: Images that were read.
        progress: Receives the messages.
    """
    for note in images.notes:
        progress.note(note)
    for text in images.warnings:
        progress.note(f"warning: {text}")
    for error in images.skipped:
        progress.note(f"skipped: {error}")
