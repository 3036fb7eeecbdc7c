"""Fit a closed-form detector to the normal images of a folder, in seconds and in bounded memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advrad.data.framing import Framing
from advrad.data.images import examine
from advrad.data.layouts import Dataset
from advrad.data.loading import ImageStack
from advrad.data.records import Record
from advrad.data.shapes import record_shapes
from advrad.data.splits import most_for_memory, shuffle_normals
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import PlanRecord
from advrad.detectors.tiled import TiledDetector
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_selection import USUAL_RADIUS, Radius
from advrad.training.fit_plan import ClosedFormPlan
from advrad.training.framing_choice import choose_framing, with_images
from advrad.training.normal_images import NormalImages
from advrad.training.options import RunOptions
from advrad.training.tiled_fit import fit_tiled
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
        leave_out_copies: Whether images that are copies of others are left out, as in every new fit.
        tests: Number of tests between which the false-alarm rate of the options is divided; the closed form is one.
    """

    dataset: Dataset
    options: RunOptions
    data: str
    leave_out_copies: bool = True
    tests: int = 1

    def execute(self, progress: ProgressReporter = SILENT) -> tuple[ClosedFormPlan, ClosedFormDetector | TiledDetector]:
        """Read the images and fit the detector.

        Args:
            progress: Receives the progress.

        Returns:
            The plan, and the calibrated detector.

        Raises:
            ConfigError: There are too few images for the false-alarm rate.
            ImageError: An image cannot be read.
        """
        framing = self.choose_framing(progress)
        images = self.read(framing, progress)
        plan, radius = self.plan_of(images, framing), self.options.optimise_for_radius
        used = USUAL_RADIUS if radius is None else Radius("l2", radius)
        if framing.tile_px is not None:
            tiled = fit_tiled(
                images,
                framing,
                false_alarm_rate=plan.false_alarm_rate,
                seed=plan.seed,
                radius=used,
                names=plan.names,
                progress=progress,
            )
            tiled.update_config(training=with_images(tiled.config.training, framing, images, plan.value_range))
            return plan, tiled
        detector = fit_closed_form(
            images.batch(range(len(images))),
            false_alarm_rate=plan.false_alarm_rate,
            seed=plan.seed,
            radius=used,
            aspect=plan.aspect,
            names=plan.names,
            progress=progress,
        )
        record = with_images(detector.config.training, framing, images, plan.value_range)
        detector.update_config(pad=framing.pad, training=record)
        return plan, detector

    def choose_framing(self, progress: ProgressReporter = SILENT) -> Framing:
        """Decide how the images become working images.

        Args:
            progress: Receives a message about what is done to the images.

        Raises:
            ConfigError: The shape or the tiles do not suit the images.
        """
        shapes = record_shapes(self._chosen(SILENT), self.options.data.max_pixels)
        return choose_framing(shapes, self.options, self.options.size_px or SIZE_PX, progress=progress)

    def read(self, framing: Framing, progress: ProgressReporter = SILENT) -> ImageStack:
        """Read the images that are used, in the order in which they are fitted.

        Args:
            framing: How they become working images.
            progress: Receives the progress, and a message for each image that is left out.

        Returns:
            The images.

        Raises:
            ConfigError: There are too few images for the false-alarm rate.
            ImageError: An image cannot be read.
        """
        return self._source.read(self._chosen(progress), framing, progress)

    def _chosen(self, progress: ProgressReporter) -> list[Record]:
        """The normal images that are used."""
        records = shuffle_normals(self.dataset.records, self.options.seed)
        most = most_for_memory(self.options.false_alarm_rate / self.tests)
        if len(records) > most:
            progress.note(f"{most} of the {len(records)} normal images are used, drawn at random; more are not needed")
        return sorted(records[:most], key=lambda record: record.path.as_posix())

    @property
    def _source(self) -> NormalImages:
        options = self.options
        copies = self.leave_out_copies
        return NormalImages(
            self.dataset, options.data, options.false_alarm_rate, leave_out_copies=copies, tests=self.tests
        )

    def plan_of(self, images: ImageStack, framing: Framing) -> ClosedFormPlan:
        """The plan of a fit of the closed form, with the images that are used.

        Args:
            images: Images that :meth:`read` gave.
            framing: How they became working images.
        """
        options = self.options
        return ClosedFormPlan(
            data=self.data,
            layout=self.dataset.layout,
            category=self.dataset.category,
            size_px=options.size_px or SIZE_PX,
            seed=options.seed,
            aspect=aspect_of(images.records, options.data.max_pixels) if framing.stretches else 1.0,
            shape="tiles" if framing.tile_px else "pad" if framing.pad else "stretch",
            tile_px=options.tile_px,
            false_alarm_rate=options.false_alarm_rate / self.tests,
            score=options.score,
            optimise_for_radius=options.optimise_for_radius,
            max_pixels=options.data.max_pixels,
            value_range=options.data.value_range,
            skip_bad=options.data.skip_bad,
            leaves_out_copies=self.leave_out_copies,
            names=self.names_of(images),
        )

    def names_of(self, images: ImageStack) -> tuple[str, ...]:
        """Names of images, relative to the folder of the data set.

        Args:
            images: Images of this data set.
        """
        return self._source.names_of(images)


def record_fit(detector: ClosedFormDetector | TiledDetector, plan: ClosedFormPlan, seconds: float) -> None:
    """Store how a detector was fitted in its configuration.

    Args:
        detector: Closed-form detector, alone or of tiles.
        plan: Plan of the fit.
        seconds: Duration of the fit.
    """
    values = plan.model_dump(mode="json", exclude={"names", "data"}) | {"train": {"seed": plan.seed}}
    training = detector.config.training.model_copy(
        update={"plan": PlanRecord.model_validate(values), "seconds": round(seconds, 3)}
    )
    source = {"data": Path(plan.data).name, "category": plan.category, "split_seed": plan.seed}
    calibration = detector.calibration.model_copy(update={"source": source})
    detector.update_config(training=training, calibration=calibration)


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
