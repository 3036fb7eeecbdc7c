"""The normal images of a training run, divided by purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from advrad.data.framing import Framing
from advrad.data.loading import ImageStack, load_images
from advrad.data.splits import split_normals
from advrad.data.value_range import RangeRecord
from advrad.detectors.config import ImageCounts
from advrad.training.normal_images import NormalImages, report_skipped
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

    def range_record(self, given: float | None) -> RangeRecord | None:
        """The range of the values of all images, to keep with a model; None if it is not known.

        Args:
            given: Value of white that the user gave; None if the files told it.
        """
        levels = (*self.train.levels, *self.selection.levels, *self.calibration.levels)
        return RangeRecord.of(levels, given) if levels else None

    def calibration_batches(self, size: int = 8) -> Iterator[Tensor]:
        """Give the calibration images in batches.

        Args:
            size: Images per batch.

        Yields:
            Images, (b, 3, s, s) float in [0, 1].
        """
        for start in range(0, len(self.calibration), size):
            yield self.calibration.batch(range(start, min(start + size, len(self.calibration))))


def read_divided(
    source: NormalImages, framing: Framing, seed: int, progress: ProgressReporter = SILENT
) -> CalibrationData:
    """Read the normal images of a training that learns, and divide them by purpose.

    Images that cannot be read, and copies of others, are left out before. Where ``source.leave_out_copies`` is false,
    the images are divided as older versions did: before those are left out that cannot be read.

    Args:
        source: Data set, and how its images are read.
        framing: How the images become working images.
        seed: Seed of the division.
        progress: Receives the progress, and a message for each image that is left out.

    Raises:
        ConfigError: There are too few images for the false-alarm rate.
        DataError: There are too few images to train a denoiser.
        ImageError: An image cannot be read, and ``source.options.skip_bad`` is false.
    """
    rate = source.false_alarm_rate
    if source.leave_out_copies:
        records = [record for record in source.dataset.records if record.split == "train" and record.label == 0]
        return split_stack(source.read(records, framing, progress), seed, rate)
    split = split_normals(source.dataset.records, seed, false_alarm_rate=rate)
    parts = (split.train, split.selection, split.calibration)
    progress.stage("Reading images")
    stacks = [load_images(part, framing, source.options, progress=progress) for part in parts]
    for stack in stacks:
        report_skipped(stack, progress)
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
        *(images.at([row[record] for record in part]) for part in (split.train, split.selection, split.calibration))
    )
