"""What a model folder holds, whatever its kind: the interface, and prediction with it.

:data:`advrad.detectors.loading.KINDS` lists the kinds. Their form for attacks and certificates is
:func:`advrad.detectors.wrappers.as_detector` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from advrad.data.array_checks import check_images
from advrad.data.arrays import image_batches
from advrad.data.framing import Framing
from advrad.data.records import MAX_PIXELS
from advrad.detectors.base import AnomalyDetector, DetectorOutput
from advrad.detectors.outputs import Prediction
from advrad.errors import ConfigError, NotCalibratedError

if TYPE_CHECKING:
    from advrad.data.arrays import ImageInput
    from advrad.detectors.config import Calibration, RecordedFigures, RobustCalibration, TrainingRecord


class BatchOutput(Protocol):
    """Output for b images on the CPU: :class:`DetectorOutput` or :class:`AdvRADOutput`."""

    @property
    def scores(self) -> Tensor:
        """Anomaly scores, (b,); larger is more anomalous."""

    @property
    def anomaly_maps(self) -> Tensor | None:
        """Anomaly maps, (b, 1, h, w)."""

    @property
    def reconstructions(self) -> Tensor | None:
        """Reconstructions, (b, 3, h, w), about [0, 1]; None for a detector that makes none."""


@runtime_checkable
class SupportsPrediction(Protocol):
    """A detector that scores images as it does once deployed: without gradients, and with its stored noise."""

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels. Tensors may have another size."""

    @property
    def threshold(self) -> float | None:
        """Threshold of the score; the verdict is defective where score > threshold. None if it gives no verdicts."""

    def predict_batch(self, images: Tensor) -> BatchOutput:
        """Compute scores and anomaly maps, the same for any batch size.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
        """


def image_size_of(detector: AnomalyDetector | SupportsPrediction) -> int | None:
    """Side of the square to which image files are scaled for a detector, in pixels; None if it does not matter."""
    return detector.image_size_px if isinstance(detector, SupportsPrediction) else detector.size_px


def takes_pixels(detector: object) -> bool:
    """Whether a detector takes images in 8 bits at their own size, (h, w, 3) uint8 each, as an export does.

    Args:
        detector: Detector.
    """
    return getattr(detector, "takes_pixels", False) is True


def framing_of(detector: AnomalyDetector | SupportsPrediction) -> Framing | None:
    """How image files become working images of a detector; None if their size does not matter.

    Args:
        detector: Detector.
    """
    framing = getattr(detector, "framing", None)
    if isinstance(framing, Framing):
        return framing
    size_px = image_size_of(detector)
    return None if size_px is None else Framing.square(size_px)


def seen_by(detector: AnomalyDetector | SupportsPrediction) -> tuple[str, ...]:
    """Digests of the images that a detector was made from; empty if it keeps none.

    Args:
        detector: Detector.
    """
    from advrad.detectors.config import TrainingRecord

    training = getattr(getattr(detector, "config", None), "training", None)
    return training.seen if isinstance(training, TrainingRecord) else ()


def framing_for(detector: AnomalyDetector | SupportsPrediction, size_px: int | None) -> Framing | None:
    """How image files become working images of a detector at a size that the user may choose.

    Args:
        detector: Detector.
        size_px: Side of a square; None for the detector's own size.

    Returns:
        The framing; None if the size matters neither to the detector nor to the user.

    Raises:
        ConfigError: The detector's images are no squares.
    """
    framing = framing_of(detector)
    if size_px is None:
        return framing
    if framing is None:
        return Framing.square(size_px)
    if framing.tile_px is not None:
        raise ConfigError(
            f"this detector cuts images of {framing.width_px} x {framing.height_px} px into tiles; leave it out",
            option="size_px",
            value=size_px,
        )
    return replace(framing, height_px=size_px, width_px=size_px)


class SavedConfig(Protocol):
    """Everything about a saved detector except its tensors, as ``config.json`` holds it."""

    @property
    def kind(self) -> str:
        """Kind of detector, one of the names in :data:`advrad.detectors.loading.KINDS`."""

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels."""

    @property
    def framing(self) -> Framing:
        """How image files become working images."""

    @property
    def calibration(self) -> Calibration | None:
        """Threshold of the score; None if it was not set."""

    @property
    def robust_calibration(self) -> RobustCalibration | None:
        """Threshold that keeps its false-alarm rate under attack; None if it was not set."""

    @property
    def training(self) -> TrainingRecord:
        """How the detector was trained or fitted."""

    @property
    def figures(self) -> RecordedFigures:
        """Measured results."""

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """The configuration as JSON values, with ``mode="json"``."""


class SavedDetector(SupportsPrediction, Protocol):
    """A detector that is saved in a model folder.

    Example:
        Needs a model folder.

        >>> from advrad.detectors import load_detector
        >>> detector: SavedDetector = load_detector("bottle")  # doctest: +SKIP
        >>> detector.describe()  # doctest: +SKIP
        ['patches of 7 x 7 cells of 4 px', 'maximum']
    """

    @property
    def config(self) -> SavedConfig:
        """The configuration."""

    @property
    def calibration(self) -> Calibration:
        """The threshold and where it comes from.

        Raises:
            NotCalibratedError: The detector has no threshold.
        """

    @property
    def device(self) -> torch.device:
        """Device that computes."""

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""

    def predict(self, inputs: ImageInput, batch_size: int = 8, max_pixels: int = MAX_PIXELS) -> Iterator[Prediction]:
        """Score images and decide, see :func:`predict_images`."""

    def calibrate(
        self, normals: ImageInput, false_alarm_rate: float = 0.05, source: dict[str, Any] | None = None
    ) -> None:
        """Set the threshold from normal images that were used for nothing else, see :meth:`SavedMixin.calibrate`."""

    def save_pretrained(self, folder: str | Path, /) -> object:
        """Write the model folder: ``config.json``, ``model.safetensors`` and the model card.

        Args:
            folder: Folder, made if missing; a model in it is replaced.
        """


class _Configured(SupportsPrediction, Protocol):
    without_threshold: ClassVar[str]

    @property
    def config(self) -> SavedConfig: ...

    def update_config(self, **changes: Any) -> None: ...


class SavedMixin:
    """What a saved detector answers from its configuration alone, and how it predicts.

    Attributes:
        without_threshold: What to do about a missing threshold, for the error.
    """

    without_threshold: ClassVar[str] = "train it again"

    @property
    def framing(self: _Configured) -> Framing:
        """How image files become working images."""
        return self.config.framing

    @property
    def threshold(self: _Configured) -> float | None:
        """Threshold of the score; None if it was not set."""
        return None if self.config.calibration is None else self.config.calibration.threshold

    @property
    def calibration(self: _Configured) -> Calibration:
        """The threshold and where it comes from.

        Raises:
            NotCalibratedError: The detector has no threshold.
        """
        if (found := self.config.calibration) is None:
            raise NotCalibratedError(f"the detector has no threshold and gives no verdicts; {self.without_threshold}")
        return found

    def describe(self: _Configured) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        return self.config.describe()

    def predict(
        self: SavedDetector,
        inputs: ImageInput,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        value_range: float | None = None,
    ) -> Iterator[Prediction]:
        """Score images and decide.

        Args:
            inputs: Images: a path, an image of Pillow, an array or a tensor, or an iterable of these. An array is
                uint8, uint16 or float in [0, 1], of the shape (h, w), (h, w, 3), (3, h, w), (n, h, w, 3), (n, 3, h, w)
                or (h, w, 4) with transparency. All are scaled as image files are, except float tensors of PyTorch,
                which keep their size.
            batch_size: Number of images that are scored at a time; it does not change the results on a CPU.
            max_pixels: Largest number of pixels of an image file that is read.
            value_range: Value of white in files and arrays of whole numbers, > 0; None if they or the training tell it.

        Yields:
            One prediction per image, in order, as soon as it is made.

        Raises:
            NotCalibratedError: The detector has no threshold.
            DataError: An image has another shape or type, or values that are not finite or outside [0, 1].
            ImageError: A file cannot be read.
            CheckpointError: A score is not a finite number.

        Example:
            Needs a model folder.

            >>> detector = advrad.load_detector("bottle")  # doctest: +SKIP
            >>> [verdict] = detector.predict(camera.read())  # doctest: +SKIP
            >>> verdict.defective  # doctest: +SKIP
            False
        """
        return predict_images(self, inputs, batch_size, max_pixels, value_range)

    def calibrate(
        self: _Configured, normals: ImageInput, false_alarm_rate: float = 0.05, source: dict[str, Any] | None = None
    ) -> None:
        """Set the threshold from normal images that were used for nothing else.

        The score is a fixed function of the image, so the scores of these images and of a new normal image are
        exchangeable, and the threshold is a conformal quantile of the former: the probability that the new image
        exceeds it is at most the false-alarm rate. This holds however the score was chosen or trained.

        A threshold for images under attack, and figures that were measured with the threshold before, no longer hold:
        they are removed.

        Args:
            normals: Normal images: batches of tensors, (b, 3, h, w) each, or whatever :meth:`predict` takes.
            false_alarm_rate: Largest share of normal images that may be called anomalous, between 0 and 1.
            source: Description of the images, stored with the threshold.

        Raises:
            ConfigError: There are too few images for the rate.
            DataError: An image has another shape or type, or values that are not finite or outside [0, 1].
        """
        from advrad.detectors.config import RecordedFigures
        from advrad.detectors.conformal import calibration_of

        calibration = calibration_of(self, normals, false_alarm_rate, source)
        self.update_config(calibration=calibration, robust_calibration=None, figures=RecordedFigures())


def predict_images(
    detector: SavedDetector,
    inputs: ImageInput,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
    value_range: float | None = None,
) -> Iterator[Prediction]:
    """Score images and decide; see :meth:`SavedMixin.predict`."""
    from advrad.detectors.deciding import decide

    threshold = detector.calibration.threshold
    framing = (framing_of(detector) or Framing.square(detector.image_size_px)).with_white(value_range)
    for batch in image_batches(inputs, framing, batch_size, max_pixels):
        names = [image.name for image in batch.images]
        paths = [image.path for image in batch.images]
        for image, found in zip(batch.images, decide(detector, threshold, batch.pixels, names, paths), strict=True):
            yield found if image.sides_px is None else found.without_padding(framing, *image.sides_px)


def infer_singly(
    infer: Callable[[Tensor], DetectorOutput], images: Tensor, device: torch.device | str
) -> DetectorOutput:
    """Score images one at a time and without gradients, so that the size of a batch does not matter.

    Args:
        infer: Function of one image, (1, 3, h, w), that gives its score and its map.
        images: Images, (b, 3, h, w), float in [0, 1].
        device: Device that computes.

    Returns:
        Scores and maps on the CPU, float32.

    Raises:
        DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
    """
    images = check_images(images).float()
    with torch.no_grad():
        parts = [infer(part.to(device)) for part in torch.split(images, 1)]
    maps = [part.anomaly_maps for part in parts if part.anomaly_maps is not None]
    return DetectorOutput(torch.cat([part.scores for part in parts]).float().cpu(), torch.cat(maps).float().cpu())
