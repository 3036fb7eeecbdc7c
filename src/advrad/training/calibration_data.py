"""The normal images of a training run, divided by purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from advrad.data.loading import ImageStack, load_images
from advrad.data.options import DataOptions
from advrad.data.splits import NormalSplit, normals_needed, normals_to_train, rate_in_reach, split_normals
from advrad.detectors.config import ImageCounts
from advrad.errors import ConfigError, DataError
from advrad.utils.progress import SILENT, ProgressReporter


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Normal images of a training run, divided by purpose.

    Attributes:
        train: Images from which the weights are learnt.
        selection: Images with which the score is chosen.
        calibration: Images with which the thresholds are set.
    """

    train: ImageStack
    selection: ImageStack
    calibration: ImageStack

    @property
    def counts(self) -> ImageCounts:
        """Number of images for each purpose."""
        return ImageCounts(train=len(self.train), selection=len(self.selection), calibration=len(self.calibration))

    def calibration_batches(self, size: int = 8) -> Iterator[Tensor]:
        """Give the calibration images in batches.

        Args:
            size: Images per batch.

        Yields:
            Images, (b, 3, s, s) float in [0, 1].
        """
        for start in range(0, len(self.calibration), size):
            yield self.calibration.batch(range(start, min(start + size, len(self.calibration))))


def read_images(
    split: NormalSplit, size_px: int, options: DataOptions, progress: ProgressReporter = SILENT
) -> CalibrationData:
    """Read the normal images of a split.

    Args:
        split: Records of the images, by purpose.
        size_px: Side of the square to which the images are resized, pixels.
        options: How the images are read.
        progress: Receives the progress, and a message for each image that is left out.

    Raises:
        ImageError: An image cannot be read, and ``options.skip_bad`` is false.
    """
    stacks = []
    for records in (split.train, split.selection, split.calibration):
        stack = load_images(records, size_px, options, progress=progress)
        for note in stack.notes:
            progress.note(note)
        for error in stack.skipped:
            progress.note(f"skipped: {error}")
        stacks.append(stack)
    return CalibrationData(*stacks)


def split_stack(images: ImageStack, seed: int, false_alarm_rate: float) -> CalibrationData:
    """Divide normal images that are already read; see :func:`advrad.data.splits.split_normals`.

    Args:
        images: Normal images.
        seed: Seed of the division.
        false_alarm_rate: False-alarm rate of the threshold, between 0 and 1.

    Raises:
        DataError: There are fewer than 8 images.
        ConfigError: The rate is out of range.
    """
    split = split_normals(images.records, seed, false_alarm_rate=false_alarm_rate)
    row = {record: index for index, record in enumerate(images.records)}
    return CalibrationData(
        *(
            ImageStack(images.values[[row[record] for record in part]], part)
            for part in (split.train, split.selection, split.calibration)
        )
    )


def check_counts(counts: ImageCounts, false_alarm_rate: float) -> None:
    """Refuse too few images before hours are spent on a detector that could not be calibrated.

    Args:
        counts: Number of normal images for each purpose.
        false_alarm_rate: Largest share of normal images that may be called anomalous.

    Raises:
        ConfigError: There are too few images for the false-alarm rate.
        DataError: There are too few images to choose the score.
    """
    needed = normals_needed(false_alarm_rate)
    if counts.calibration < needed:
        raise ConfigError(
            f"needs {needed} normal images for calibration alone, but only {counts.calibration} of the {counts.total}"
            f" are available for it; give at least {normals_to_train(false_alarm_rate)} in all, or accept a rate of"
            f" {rate_in_reach(counts.calibration):g} or more; the closed form alone needs only {needed}",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    if counts.selection < 2:
        raise DataError(
            f"only {counts.selection} of the {counts.total} normal images are left to choose the score; add normal"
            " images"
        )
