"""What a model folder holds, whatever its kind: the interface, and prediction with it.

Three kinds exist: :class:`advrad.AdvRAD`, :class:`advrad.detectors.ClosedFormDetector`, and both combined.
:mod:`advrad.detectors.loading` loads them. Their form for attacks and certificates is
:func:`advrad.detectors.wrappers.as_detector` of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from advrad.data.images import read_resized
from advrad.data.records import MAX_PIXELS
from advrad.detectors.outputs import Prediction
from advrad.errors import DetectorError, NotCalibratedError

if TYPE_CHECKING:
    from advrad.detectors.base import AnomalyDetector
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


class SavedConfig(Protocol):
    """Everything about a saved detector except its tensors, as ``config.json`` holds it."""

    @property
    def kind(self) -> str:
        """Kind of detector, one of the names in :data:`advrad.detectors.loading.KINDS`."""

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels."""

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

    def predict(
        self, inputs: Tensor | str | Path | Iterable[str | Path], batch_size: int = 8, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Prediction]:
        """Score images and decide, see :func:`predict_images`."""

    def save_pretrained(self, folder: str | Path, /) -> object:
        """Write the model folder: ``config.json``, ``model.safetensors`` and the model card.

        Args:
            folder: Folder, made if missing; a model in it is replaced.
        """


class _Configured(Protocol):
    without_threshold: ClassVar[str]

    @property
    def config(self) -> SavedConfig: ...


class SavedMixin:
    """What a saved detector answers from its configuration alone, and how it predicts.

    Attributes:
        without_threshold: What to do about a missing threshold, for the error.
    """

    without_threshold: ClassVar[str] = "train it again"

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
        inputs: Tensor | str | Path | Iterable[str | Path],
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Prediction]:
        """Score images and decide.

        Args:
            inputs: Images, (b, 3, h, w), float in [0, 1]; or one path or several.
            batch_size: Number of images that are scored at a time; it does not change the results on a CPU.
            max_pixels: Largest number of pixels of an image file that is read.

        Yields:
            One prediction per image, in order, as soon as it is made.

        Raises:
            NotCalibratedError: The detector has no threshold.
            ImageError: A file cannot be read.
        """
        return predict_images(self, inputs, batch_size, max_pixels)


def predict_images(
    detector: SavedDetector,
    inputs: Tensor | str | Path | Iterable[str | Path],
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Prediction]:
    """Score images and decide.

    Args:
        detector: Detector.
        inputs: Images, (b, 3, h, w), float in [0, 1]; or one path or several.
        batch_size: Number of images that are scored at a time; it does not change the results on a CPU.
        max_pixels: Largest number of pixels of an image file that is read.

    Yields:
        One prediction per image, in order, as soon as it is made.

    Raises:
        NotCalibratedError: The detector has no threshold.
        ImageError: A file cannot be read.
    """
    threshold = detector.calibration.threshold
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    for images, paths in _batches(inputs, batch_size, detector.image_size_px, max_pixels):
        output = detector.predict_batch(images)
        maps, recons = output.anomaly_maps, output.reconstructions
        if maps is None:
            raise DetectorError("gives no anomaly maps, which every saved detector must give")
        for row, path in enumerate(paths):
            score = float(output.scores[row])
            yield Prediction(
                score=score,
                threshold=threshold,
                defective=score > threshold,
                anomaly_map=maps[row, 0].numpy(),
                reconstruction=None if recons is None else recons[row].permute(1, 2, 0).numpy(),
                path=path,
            )


def _batches(
    inputs: Tensor | Iterable[str | Path], batch_size: int, size_px: int, max_pixels: int
) -> Iterator[tuple[Tensor, list[Path | None]]]:
    if isinstance(inputs, Tensor):
        for part in torch.split(inputs, batch_size):
            yield part, [None] * len(part)
        return
    images: list[Tensor] = []
    paths: list[Path | None] = []
    for path in inputs:
        images.append(read_resized(Path(path), size_px, max_pixels))
        paths.append(Path(path))
        if len(images) == batch_size:
            yield torch.stack(images), paths
            images, paths = [], []
    if images:
        yield torch.stack(images), paths
