"""Fit a closed-form detector to the normal images of a folder, in seconds and in bounded memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advrad.data.images import examine
from advrad.data.layouts import Dataset
from advrad.data.loading import ImageStack, load_images
from advrad.data.records import Record
from advrad.data.splits import most_for_memory, normals_needed, rate_in_reach, shuffle_normals
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import PlanRecord
from advrad.errors import ConfigError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_selection import USUAL_RADIUS, Radius
from advrad.training.options import RunOptions
from advrad.training.plan import ClosedFormPlan
from advrad.utils.progress import SILENT, ProgressReporter

#: Side of the square to which images are resized, pixels.
SIZE_PX = 256
#: Largest relative difference between the shapes of image files that count as equal.
_SAME_SHAPE = 0.02


@dataclass(frozen=True)
class ClosedFormRun:
    """A fit of the closed form to the normal images of a data set.

    Attributes:
        dataset: Images; only the normal training images are used.
        options: Options of the run.
        data: Name of the data, stored in the plan.
    """

    dataset: Dataset
    options: RunOptions
    data: str

    def execute(self, progress: ProgressReporter = SILENT) -> tuple[ClosedFormPlan, ClosedFormDetector]:
        """Read the images and fit the detector.

        Args:
            progress: Receives the progress.

        Returns:
            The plan, and the calibrated detector.

        Raises:
            ConfigError: There are too few images for the false-alarm rate.
            ImageError: An image cannot be read.
        """
        images = self.read(progress)
        plan, radius = self._plan(images), self.options.optimise_for_radius
        detector = fit_closed_form(
            images.batch(range(len(images))),
            false_alarm_rate=plan.false_alarm_rate,
            seed=plan.seed,
            radius=USUAL_RADIUS if radius is None else Radius("l2", radius),
            aspect=plan.aspect,
            names=plan.names,
            progress=progress,
        )
        return plan, detector

    def read(self, progress: ProgressReporter = SILENT) -> ImageStack:
        """Read the images that are used, in the order in which they are fitted.

        Args:
            progress: Receives the progress, and a message for each image that is left out.

        Returns:
            The images.

        Raises:
            ConfigError: There are too few images for the false-alarm rate.
            ImageError: An image cannot be read.
        """
        options = self.options
        rate = options.false_alarm_rate
        records = shuffle_normals(self.dataset.records, options.seed)
        check_count(len(records), rate)
        most = most_for_memory(rate)
        if len(records) > most:
            progress.note(f"{most} of the {len(records)} normal images are used, drawn at random; more are not needed")
        chosen = sorted(records[:most], key=lambda record: record.path.as_posix())
        progress.stage("Reading images")
        images = load_images(chosen, options.size_px or SIZE_PX, options.data, progress=progress)
        report_skipped(images, progress)
        check_count(len(images), rate)  # again, because unreadable images may have been left out
        return images

    def _plan(self, images: ImageStack) -> ClosedFormPlan:
        """The plan of the fit, with the images that are used."""
        options = self.options
        return ClosedFormPlan(
            data=self.data,
            layout=self.dataset.layout,
            category=self.dataset.category,
            size_px=options.size_px or SIZE_PX,
            seed=options.seed,
            aspect=aspect_of(images.records, options.data.max_pixels),
            false_alarm_rate=options.false_alarm_rate,
            score=options.score,
            optimise_for_radius=options.optimise_for_radius,
            max_pixels=options.data.max_pixels,
            skip_bad=options.data.skip_bad,
            names=self.names_of(images),
        )

    def names_of(self, images: ImageStack) -> tuple[str, ...]:
        """Names of images, relative to the folder of the data set.

        Args:
            images: Images of this data set.
        """
        return tuple(record.path.relative_to(self.dataset.root).as_posix() for record in images.records)


def record_fit(detector: ClosedFormDetector, plan: ClosedFormPlan, seconds: float) -> None:
    """Store how a detector was fitted in its configuration.

    Args:
        detector: Closed-form detector.
        plan: Plan of the fit.
        seconds: Duration of the fit.
    """
    values = plan.model_dump(mode="json", exclude={"names", "data"}) | {"train": {"seed": plan.seed}}
    training = detector.config.training.model_copy(
        update={"plan": PlanRecord.model_validate(values), "seconds": round(seconds, 3)}
    )
    source = {"data": Path(plan.data).name, "category": plan.category, "split_seed": plan.seed}
    calibration = detector.calibration.model_copy(update={"source": source})
    detector.config = detector.config.model_copy(update={"training": training, "calibration": calibration})


def check_count(count: int, false_alarm_rate: float) -> None:
    """Refuse too few images for a false-alarm rate.

    Args:
        count: Number of normal images.
        false_alarm_rate: Largest share of normal images that may be called anomalous.

    Raises:
        ConfigError: There are too few images.
    """
    needed = max(2, normals_needed(false_alarm_rate))
    if count < needed:
        least = f"; or accept a rate of {rate_in_reach(count):g} or more" if count >= 2 else ""
        raise ConfigError(
            f"needs {needed} normal images, but there are {count}; add normal images{least}",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )


def report_skipped(images: ImageStack, progress: ProgressReporter) -> None:
    """Tell the user about images that were left out, and other notes of reading.

    Args:
        images: Images that were read.
        progress: Receives the messages.
    """
    for note in images.notes:
        progress.note(note)
    for error in images.skipped:
        progress.note(f"skipped: {error}")


def aspect_of(records: Sequence[Record], max_pixels: int) -> float:
    """Width of image files divided by their height: the median, or 1 if they differ by more than 2 %.

    Args:
        records: Images.
        max_pixels: Largest accepted number of pixels.

    Raises:
        ImageError: An image cannot be read.
    """
    shapes = []
    for record in records:
        info = examine(record.path, max_pixels)
        shapes.append(info.width_px / info.height_px)
    return statistics.median(shapes) if max(shapes) <= (1 + _SAME_SHAPE) * min(shapes) else 1.0
