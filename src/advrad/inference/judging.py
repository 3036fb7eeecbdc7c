"""From an image file to a judgement in memory: read, decide, certify, draw. Nothing is written.

``advrad predict`` and the service at the line both take this path, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.prediction import Certifier, PredictionCertificate, ProvenPrediction
from advrad.data.images import ImageInfo, read_and_examine8, read_working_image
from advrad.data.records import MAX_PIXELS
from advrad.data.shapes import check_shape
from advrad.data.spooling import spooled
from advrad.data.transforms import to_tensor
from advrad.data.value_range import ImageLevels
from advrad.detectors.deciding import decide
from advrad.detectors.exported_config import halves_of
from advrad.detectors.outputs import Prediction
from advrad.detectors.saved import SavedDetector, takes_pixels
from advrad.errors import ConfigError, ImageError
from advrad.inference.half_maps import draw_half_maps, half_legend, with_legend
from advrad.inference.heatmaps import draw_heat_map, draw_proven_area
from advrad.utils.formatting import radius_text

Certificate = PredictionCertificate | ProvenPrediction
Image = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedImage:
    """An image file in memory, as it is scored and, if that is needed, at its own size.

    Attributes:
        path: Image file.
        scored: The image at the working size, (3, h', w') float; or at its own in 8 bits, (h, w, 3), by what takes
            pixels.
        full: The image at its own size, (h, w, 3) float in [0, 1]; None if it was not asked for.
        height_px: Height of the image.
        width_px: Width of the image.
        warning: Why a judgement is doubtful; None if it is not.
        levels: White, smallest and largest value of the file; None if they are not known.
    """

    path: Path
    scored: Tensor | npt.NDArray[np.uint8]
    full: Image | None
    height_px: int
    width_px: int
    warning: str | None = None
    levels: ImageLevels | None = None

    @property
    def held_pixels(self) -> int:
        """Number of pixels of the image at its own size that are held."""
        return 0 if self.full is None else self.full.shape[0] * self.full.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """An image and what a detector says about it.

    Attributes:
        image: The image.
        prediction: Score, verdict and maps, with the threshold that decided.
        calibrated_threshold: Threshold of the detector, where another decided; None where that one did.
        certificate: Certified or proven verdict; None if none was asked for.
    """

    image: LoadedImage
    prediction: Prediction
    calibrated_threshold: float | None = None
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What is drawn of a judged image.

    Attributes:
        heat_map: The image with its anomaly map and the lines around it, (h, w, 3) in [0, 1].
        reconstruction: The image as it would be without anomalies, (h', w', 3); None if the detector makes none.
    """

    heat_map: Image
    reconstruction: Image | None


class ImageJudge:
    """Reads image files, and says what a detector finds.

    Args:
        detector: Calibrated detector.
        max_pixels: Largest accepted image, width times height.
        value_range: Value of white in the image files, > 0; None if the files or the training tell it.

    Raises:
        NotCalibratedError: The detector has no threshold.

    Example:
        Needs a model folder.

        >>> judge = ImageJudge(advrad.load_detector("bottle"))  # doctest: +SKIP
        >>> [judged] = judge.decide([judge.read(Path("part-0001.png"))])  # doctest: +SKIP
        >>> judged.prediction.defective  # doctest: +SKIP
        False
    """

    def __init__(
        self, detector: SavedDetector, *, max_pixels: int = MAX_PIXELS, value_range: float | None = None
    ) -> None:
        self.detector = detector
        self.calibration = detector.calibration
        self.framing = detector.config.framing.with_white(value_range)
        self.max_pixels = max_pixels
        self._in_pixels = takes_pixels(detector)

    def read(self, path: Path, *, keep_full: bool = False) -> LoadedImage:
        """Read an image file once, as it is scored.

        Args:
            path: Image file.
            keep_full: Whether the image is wanted at its own size as well, to be drawn or certified.

        Raises:
            ImageError: It cannot be read, is too large, or does not suit the training images.
        """
        warning = check_shape(path, self.framing.trained, self.max_pixels)
        if not self._in_pixels:
            image = read_working_image(path, self.framing, self.max_pixels, keep_full=keep_full)
            return _loaded(path, image.resized, image.full, image.info, warning)
        pixels, info = read_and_examine8(path, self.framing, self.max_pixels)
        return _loaded(path, pixels, np.divide(pixels, np.float32(255)) if keep_full else None, info, warning)

    def read_content(self, content: bytes, name: str, *, keep_full: bool = False) -> LoadedImage:
        """Read the content of an image file, such as a part of an archive.

        Args:
            content: Content of the file.
            name: Name of the image, for errors.
            keep_full: See :meth:`read`.

        Returns:
            The image; its path is the name, and there need be no such file.

        Raises:
            ImageError: See :meth:`read`.
            OutputError: The disk of temporary files does not work.
        """
        with spooled(content, name) as path:
            try:
                image = self.read(path, keep_full=keep_full)
            except ImageError as error:
                raise ImageError(Path(name), error.reason.replace(str(path), name)) from None
        return replace(image, path=Path(name))

    def check_threshold(self, threshold: float | None) -> None:
        """Refuse a threshold in place of the calibrated one where the detector decides by several tests.

        Args:
            threshold: Threshold to decide with; None for the calibrated one, which always suits.

        Raises:
            ConfigError: The detector is guarded.
        """
        if threshold is not None and halves_of(self.detector.config) is not None:
            raise ConfigError(
                "cannot be used with a guarded detector, which decides by a test for each half; to try another rate,"
                " make a copy by `advrad calibrate RUN DATA -o NEW` with that rate, and predict with NEW",
                option="threshold",
                value=threshold,
            )

    def decide(self, images: Sequence[LoadedImage], threshold: float | None = None) -> Iterator[Judged]:
        """Score images and decide.

        Args:
            images: Images; there may be none.
            threshold: Threshold in place of the calibrated one, see :meth:`check_threshold`; None for that one.

        Yields:
            What the detector says about each image, in order.

        Raises:
            CheckpointError: A score is not a finite number, or a runtime fails.
        """
        if not images:
            return
        working = [image.scored for image in images if isinstance(image.scored, Tensor)]
        pixels = [image.scored for image in images if not isinstance(image.scored, Tensor)]
        paths = [image.path for image in images]
        names = [str(path) for path in paths]
        found = decide(self.detector, self.calibration.threshold, pixels or torch.stack(working), names, paths)
        for image, prediction in zip(images, found, strict=True):
            if threshold is None:
                yield Judged(image, prediction)
                continue
            decided = replace(prediction, threshold=threshold, defective=prediction.score > threshold)
            yield Judged(image, decided, calibrated_threshold=prediction.threshold)

    def draw(self, judged: Judged, *, legend: bool = True) -> Drawn:
        """Draw heat map, with the proven defect area if there is one, and reconstruction.

        Args:
            judged: Image that was read with ``keep_full``, with what :meth:`decide` says about it.
            legend: Whether a legend in words is added below the heat map of a guarded detector.

        Raises:
            DataError: A map has a value that is NaN or infinite.
            ValueError: The image is not held at its own size.
        """
        image, certificate = judged.image, judged.certificate
        if image.full is None:
            raise ValueError(f"{image.path}: was read without keep_full, so there is nothing to draw on")
        prediction = self.without_padding(judged)
        maps, proven = prediction.half_maps, ""
        drawn = (
            draw_half_maps(image.full, maps)
            if maps
            else draw_heat_map(image.full, prediction.anomaly_map, self.calibration)
        )
        if isinstance(certificate, ProvenPrediction) and certificate.lower_map is not None:
            lower_map = certificate.lower_map[self.framing.window(image.height_px, image.width_px)]
            drawn = draw_proven_area(drawn, lower_map, certificate.area_level(self.calibration))
            proven = f"{certificate.norm} {radius_text(certificate.radius, certificate.norm)}"
        if maps and legend:
            drawn = with_legend(drawn, half_legend([half.name for half in prediction.halves], proven))
        return Drawn(drawn, prediction.reconstruction)

    def without_padding(self, judged: Judged) -> Prediction:
        """The prediction with the parts of its maps that show the image.

        Args:
            judged: What :meth:`decide` says about an image.
        """
        return judged.prediction.without_padding(self.framing, judged.image.height_px, judged.image.width_px)


def certified(judged: Judged, certifier: Certifier | None, name: str | None = None) -> Judged:
    """Certify the verdict on an image.

    Args:
        judged: Image that was read with ``keep_full``, with what :meth:`ImageJudge.decide` says about it.
        certifier: Function that certifies an image; None for no certificate.
        name: Name of the image, from which random draws follow; None for that of its file.
    """
    image = judged.image
    if certifier is None or image.full is None or not isinstance(image.scored, Tensor):
        return judged
    found = certifier(image.path.name if name is None else name, to_tensor(image.full), image.scored)
    return replace(judged, certificate=found)


def _loaded(path: Path, scored: Any, full: Image | None, info: ImageInfo, warning: str | None) -> LoadedImage:
    """A loaded image with what makes a judgement doubtful."""
    doubts = [text for text in (warning, info.levels and info.levels.doubt) if text]
    return LoadedImage(path, scored, full, info.height_px, info.width_px, "; ".join(doubts) or None, info.levels)
