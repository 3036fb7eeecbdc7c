"""The normal images that set a detector's threshold, found again from what its model folder records."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from advrad.data.layouts import find_records
from advrad.data.loading import ImageStack, load_images
from advrad.detectors.config import ImageCounts
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.saved import SavedDetector
from advrad.errors import CheckpointError, ConfigError, DataError
from advrad.training.calibration_data import CalibrationData, read_divided
from advrad.training.normal_images import NormalImages
from advrad.training.plan import RunPlan, plan_path
from advrad.training.recalibrate_bounds import read_same_images
from advrad.utils.imports import is_file_name
from advrad.utils.progress import SILENT, ProgressReporter

if TYPE_CHECKING:
    from advrad.detectors.closed_form import ClosedFormDetector


@dataclass(frozen=True)
class ThresholdImages:
    """The normal images that set a detector's threshold.

    Attributes:
        images: The images at the working size, in the order of the calibration.
        max_pixels: Largest number of pixels of their files.
        left_out: Whether the detector holds them, so that each was left out of it for its score.
    """

    images: ImageStack
    max_pixels: int
    left_out: bool


def recorded_data(folder: Path) -> Path:
    """The folder of images on which a model was trained, as its plan records it.

    Args:
        folder: Model folder.

    Raises:
        CheckpointError: The plan is damaged.
        ConfigError: The folder has no plan, or its images are gone.
    """
    path = plan_path(folder)
    if not path.is_file():
        raise ConfigError(
            f"is needed, because {folder} does not record where its images are; give the folder of images that it was"
            " trained on",
            option="data",
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); name the folder of images as data") from None
    if not is_file_name(str(found)) and not Path(found).is_dir():
        raise ConfigError(
            f"is needed, because the images of the training are no longer in {found}; give their folder", option="data"
        )
    return Path(found)


def threshold_images(
    detector: SavedDetector, folder: Path, data: Path, progress: ProgressReporter = SILENT
) -> ThresholdImages:
    """Read the normal images that set a detector's threshold.

    Args:
        detector: Detector of a model folder.
        folder: Its model folder.
        data: Folder of the images on which it was trained; for a detector that was not made by a training, folder of
            the normal images that calibrated it.
        progress: Receives the progress.

    Raises:
        CheckpointError: The model does not record how its images were divided.
        ConfigError: There are too few images.
        DataError: The normal images are not those of the training.
        ImageError: An image cannot be read.
    """
    from advrad.detectors.closed_form import ClosedFormDetector
    from advrad.detectors.guarded import GuardedDetector
    from advrad.detectors.tiled import TiledDetector

    part = detector.memory if isinstance(detector, GuardedDetector) else detector
    recorded = detector.config.training.plan is not None
    if isinstance(detector, GuardedDetector) and not recorded:  # made by advrad.guard, with images of its own
        return ThresholdImages(_all_normals(detector, data, progress), _most_pixels(detector), left_out=False)
    if isinstance(part, ClosedFormDetector | TiledDetector) and part.config.held_out:
        held = list(part.config.held_out)
        images = read_same_images(part, folder, data, progress).at(held)
        if isinstance(detector, GuardedDetector):
            left_out = not detector.config.joint
        else:
            left_out = isinstance(part, ClosedFormDetector) and _holds(part, held)
        return ThresholdImages(images, _most_pixels(part), left_out)
    if not recorded:
        return ThresholdImages(_all_normals(detector, data, progress), _most_pixels(detector), left_out=False)
    plan, counts = plan_of(detector, folder, data)
    divided = read_divided_again(detector, plan, counts, data, progress)
    return ThresholdImages(divided.calibration, plan.max_pixels, left_out=False)


def _all_normals(detector: SavedDetector, data: Path, progress: ProgressReporter) -> ImageStack:
    """All normal training images of a folder, for a detector that was calibrated on a folder of its own."""
    records = [record for record in find_records(data).records if record.split == "train" and record.label == 0]
    progress.stage("Reading images")
    return load_images(
        sorted(records, key=lambda record: record.path.as_posix()), detector.config.framing, progress=progress
    )


def _most_pixels(detector: SavedDetector) -> int:
    """Largest number of pixels of an image file, as the plan of the training says."""
    from advrad.data.records import MAX_PIXELS

    plan = detector.config.training.plan
    return int(plan.to_dict().get("max_pixels", MAX_PIXELS)) if plan else MAX_PIXELS


def _holds(detector: ClosedFormDetector, numbers: list[int]) -> bool:
    """Whether the memory of a closed form holds some of the images with these numbers."""
    held = {number for name, part in detector.named_buffers() if name.endswith("groups") for number in part.tolist()}
    return not held.isdisjoint(numbers)


def plan_of(detector: SavedDetector, folder: Path, data: Path) -> tuple[RunPlan, ImageCounts]:
    """How a detector with a learned denoiser was trained, and with how many images for each purpose.

    Args:
        detector: Detector of a model folder.
        folder: Its model folder.
        data: Folder of the images.

    Raises:
        CheckpointError: The model does not record it.
    """
    training = detector.config.training
    if training.plan is None or training.images is None:
        raise CheckpointError(
            f"{folder}: does not record how it was trained, so its normal images cannot be divided in the same way;"
            " train again"
        )
    values = training.plan.to_dict() | {"data": str(data.resolve()), "names": ()}
    return RunPlan.parse(values, str(folder / CONFIG_NAME)), training.images


def read_divided_again(
    detector: SavedDetector, plan: RunPlan, counts: ImageCounts, data: Path, progress: ProgressReporter
) -> CalibrationData:
    """Read the normal images of a training that learns, divided as in that training.

    Args:
        detector: Detector that was trained on them.
        plan: Plan of the training.
        counts: Number of images for each purpose.
        data: Folder of the images.
        progress: Receives the progress.

    Raises:
        DataError: The normal images are not those of the training.
        ImageError: An image cannot be read.
    """
    dataset = find_records(data, plan.data_options)
    source = NormalImages(
        dataset, plan.data_options, plan.false_alarm_rate, learned=True, leave_out_copies=plan.leaves_out_copies
    )
    framing = replace(plan.framing, trained_range=detector.config.training.value_range)
    images = read_divided(source, framing, plan.train.seed, progress)
    found = images.counts
    if found != counts:
        raise DataError(
            f"{data}: the normal images are not those of the training ({found.total} now, {counts.total} then); a"
            " threshold from images that the detector was trained on would not keep its false-alarm rate"
        )
    return images
