"""Predict image files one after the other, with heat maps and certificates if wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.prediction import Certifier, PredictionCertificate, ProvenPrediction
from advrad.data.framing import Framing
from advrad.data.images import LARGE_PIXELS, ImageInfo, read_and_examine8, read_working_image
from advrad.data.loading import map_ahead
from advrad.data.png import write_image
from advrad.data.records import MAX_PIXELS
from advrad.data.shapes import check_shape
from advrad.data.transforms import to_tensor
from advrad.data.value_range import ImageLevels
from advrad.detectors.deciding import decide
from advrad.detectors.exported_config import halves_of
from advrad.detectors.outputs import Prediction
from advrad.detectors.saved import SavedDetector, takes_pixels
from advrad.detectors.verdicts import HalfReport, Verdict
from advrad.errors import ConfigError, DataError, ImageError
from advrad.inference.half_maps import draw_half_maps, half_legend, with_legend
from advrad.inference.heat_map_files import claim_heat_map_folder, stem_of
from advrad.inference.heatmaps import draw_heat_map, draw_proven_area
from advrad.utils.formatting import radius_text


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """The prediction for one image file.

    Attributes:
        path: Image file.
        score: Anomaly score; larger is more anomalous.
        threshold: Threshold of the score.
        defective: Whether the image is called defective: by its score, or by a half of a guarded detector.
        heat_map: File of the heat map; None if none was written; ``overlay`` in JSON.
        reconstruction: File of the reconstruction; None if none was written.
        certificate: Certified or proven verdict; None if none was asked for.
        warning: Why the prediction is doubtful, such as another shape than that of the training images; None if it is
            not.
        calibrated_threshold: Threshold of the detector, where ``threshold`` is another that was given to see what it
            changes, and promises no false-alarm rate; None where ``threshold`` is the calibrated one.
        levels: White, smallest and largest value of the file; None if they are not known.
        word: Verdict of a guarded detector in words; None for another detector.
        halves: What each half of a guarded detector says, the memory first.
        reason: Why a half failed; None if none did.

    Example:
        >>> from pathlib import Path
        >>> from advrad.inference import PredictionRecord
        >>> PredictionRecord(Path("a.png"), score=0.7, threshold=0.5, defective=True).to_dict()
        {'path': 'a.png', 'score': 0.7, 'threshold': 0.5, 'verdict': 'defective'}
    """

    path: Path
    score: float
    threshold: float
    defective: bool
    heat_map: Path | None = None
    reconstruction: Path | None = None
    certificate: PredictionCertificate | ProvenPrediction | None = None
    warning: str | None = None
    calibrated_threshold: float | None = None
    levels: ImageLevels | None = field(default=None, repr=False, compare=False)
    word: Verdict | None = None
    halves: tuple[HalfReport, ...] = ()
    reason: str | None = None

    @property
    def verdict(self) -> str:
        """The verdict, ``good`` or ``defective``; that of a guarded detector is one of :class:`Verdict`."""
        if self.word is not None:
            return str(self.word)
        return "defective" if self.defective else "good"

    def to_dict(self) -> dict[str, Any]:
        """The prediction as JSON values, with files and certificate only if there are any."""
        values: dict[str, Any] = {
            "path": str(self.path),
            "score": self.score,
            "threshold": self.threshold,
            "verdict": self.verdict,
        }
        if self.word is not None:
            values |= {"defective": self.defective, "halves": [_half(report) for report in self.halves]}
        if self.reason is not None:
            values["reason"] = self.reason
        if self.calibrated_threshold is not None:
            values |= {"calibrated": False, "calibrated_threshold": self.calibrated_threshold}
        if self.heat_map is not None:
            values["overlay"] = str(self.heat_map)
        if self.reconstruction is not None:
            values["reconstruction"] = str(self.reconstruction)
        if self.certificate is not None:
            values |= self.certificate.to_dict()
        if self.warning is not None:
            values["warning"] = self.warning
        return values


def _half(report: HalfReport) -> dict[str, Any]:
    """What a half says, as JSON values: the score is null where it failed, and bounds are there if there are any."""
    bounds = {"lower": report.lower, "upper": report.upper}
    return {
        "name": report.name,
        "score": _finite(report.score),
        "threshold": report.threshold,
        "p_value": report.p_value,
        "speaks": report.speaks,
        **({} if report.error is None else {"error": report.error}),
        **{name: _finite(bound) for name, bound in bounds.items() if bound is not None},
    }


def _finite(value: float) -> float | None:
    """The value, or None for one that JSON does not have."""
    return value if math.isfinite(value) else None


def predict_paths(
    detector: SavedDetector,
    sources: Iterable[Path | DataError],
    *,
    batch_size: int = 1,
    max_pixels: int = MAX_PIXELS,
    out: Path | None = None,
    certifier: Certifier | None = None,
    threshold: float | None = None,
    value_range: float | None = None,
    read_ahead: bool = False,
) -> Iterator[PredictionRecord | DataError]:
    """Predict image files in order. Each file is read once and scored once.

    Args:
        detector: Calibrated detector.
        sources: Image files, and errors to pass on, such as :func:`advrad.data.paths.expand_paths` yields.
        batch_size: Images per batch; does not change the verdicts.
        max_pixels: Largest accepted image, width times height.
        out: Folder for heat maps and reconstructions, made if missing; None for none.
        certifier: Function that certifies an image, of
            :func:`advrad.certificates.prediction.prediction_certifier`; None for no certificates.
        threshold: Threshold to decide with in place of the calibrated one, whose promise it does not have; None for
            the calibrated one. Certificates are about the calibrated one.
        value_range: Value of white in the image files, > 0; None if the files or the training tell it. Without it,
            images of another range than those of the training are refused.
        read_ahead: Whether to read the next image in a thread while one is scored. Without it, each image is answered
            before the next source is asked for, as paths need that are piped in one by one.

    Yields:
        A prediction for each image, or the error of a file that cannot be read.

    Raises:
        NotCalibratedError: The detector has no threshold.
        OutputError: A file cannot be written, or the folder holds images or folders that advrad did not write.
        CheckpointError: A score is not a finite number.
        ConfigError: The radius cannot be certified with the number of samples, or a threshold is given for a guarded
            detector, which decides by a test for each half.

    Example:
        >>> from advrad.inference import predict_paths
        >>> for prediction in predict_paths(detector, [Path("part-0001.png")]):  # doctest: +SKIP
        ...     print(prediction.verdict)
        good
    """
    output = _Output(detector, out, certifier, threshold)
    framing = detector.config.framing.with_white(value_range)
    load = _load_pixels if takes_pixels(detector) else _load

    def read(source: Path | DataError) -> _LoadedImage | DataError:
        return source if isinstance(source, DataError) else load(source, framing, max_pixels, output.wanted)

    batch: list[_LoadedImage] = []
    with closing(map_ahead(read, sources, 1) if read_ahead else _each(read, sources)) as images:
        for loaded in images:
            if isinstance(loaded, DataError):
                yield from output.predict(batch)
                yield loaded
                batch = []
                continue
            batch.append(loaded)
            # Images at their own size are held until they are drawn, so large ones are not collected.
            if len(batch) == batch_size or sum(image.held_pixels for image in batch) > LARGE_PIXELS:
                yield from output.predict(batch)
                batch = []
    yield from output.predict(batch)


def _each(
    read: Callable[[Path | DataError], _LoadedImage | DataError], sources: Iterable[Path | DataError]
) -> Generator[_LoadedImage | DataError, None, None]:
    for source in sources:
        yield read(source)


@dataclass(frozen=True, slots=True)
class _LoadedImage:
    """An image file in memory: as it is scored, and at its own size, (h, w, 3) float in [0, 1], if that is needed.

    It is scored at the working size, (3, h', w') float; or at its own in 8 bits, (h, w, 3), by what takes pixels.
    """

    path: Path
    scored: Tensor | npt.NDArray[np.uint8]
    full: npt.NDArray[np.float32] | None
    warning: str | None
    levels: ImageLevels | None

    @property
    def held_pixels(self) -> int:
        return 0 if self.full is None else self.full.shape[0] * self.full.shape[1]


def _load(path: Path, framing: Framing, max_pixels: int, full: bool) -> _LoadedImage | ImageError:
    try:
        warning = check_shape(path, framing.trained, max_pixels)
        image = read_working_image(path, framing, max_pixels, keep_full=full)
    except ImageError as error:
        return error
    return _LoadedImage(path, image.resized, image.full, *_doubts(warning, image.info))


def _load_pixels(path: Path, framing: Framing, max_pixels: int, full: bool) -> _LoadedImage | ImageError:
    try:
        warning = check_shape(path, framing.trained, max_pixels)
        pixels, info = read_and_examine8(path, framing, max_pixels)
    except ImageError as error:
        return error
    own = np.divide(pixels, np.float32(255)) if full else None
    return _LoadedImage(path, pixels, own, *_doubts(warning, info))


def _doubts(warning: str | None, info: ImageInfo) -> tuple[str | None, ImageLevels | None]:
    """What makes a prediction doubtful, and the values of the file."""
    doubts = [text for text in (warning, info.levels and info.levels.doubt) if text]
    return "; ".join(doubts) or None, info.levels


class _Output:
    """Scores images, certifies them, and writes their heat maps.

    Args:
        detector: Calibrated detector.
        folder: Folder for heat maps and reconstructions, or None.
        certifier: Function that certifies an image, or None.
        threshold: Threshold in place of the calibrated one, or None.
    """

    def __init__(
        self, detector: SavedDetector, folder: Path | None, certifier: Certifier | None, threshold: float | None
    ) -> None:
        if threshold is not None and halves_of(detector.config) is not None:
            raise ConfigError(
                "cannot be used with a guarded detector, which decides by a test for each half; to try another rate,"
                " make a copy by `advrad calibrate RUN DATA -o NEW` with that rate, and predict with NEW",
                option="threshold",
                value=threshold,
            )
        self.detector = detector
        self.calibration = detector.calibration
        self.threshold = threshold
        self.folder = None if folder is None else claim_heat_map_folder(folder)
        self.certifier = certifier
        self.wanted = folder is not None or certifier is not None

    def predict(self, batch: Sequence[_LoadedImage]) -> Iterator[PredictionRecord]:
        """Predict loaded images; the batch may be empty."""
        if not batch:
            return
        working = [image.scored for image in batch if isinstance(image.scored, Tensor)]
        pixels = [image.scored for image in batch if not isinstance(image.scored, Tensor)]
        images = pixels or torch.stack(working)
        paths = [image.path for image in batch]
        decided = decide(self.detector, self.calibration.threshold, images, [str(path) for path in paths], paths)
        for image, prediction in zip(batch, decided, strict=True):
            certificate = self._certify(image)
            heat_map, reconstruction = self._draw(image, prediction, certificate)
            threshold = prediction.threshold if self.threshold is None else self.threshold
            yield PredictionRecord(
                image.path,
                prediction.score,
                threshold,
                prediction.defective if self.threshold is None else prediction.score > threshold,
                heat_map,
                reconstruction,
                certificate,
                image.warning,
                None if self.threshold is None else prediction.threshold,
                image.levels,
                prediction.verdict_words,
                prediction.halves,
                prediction.reason,
            )

    def _certify(self, image: _LoadedImage) -> PredictionCertificate | ProvenPrediction | None:
        """Certify the verdict on an image."""
        if self.certifier is None or image.full is None or not isinstance(image.scored, Tensor):
            return None
        return self.certifier(image.path.name, to_tensor(image.full), image.scored)

    def _draw(
        self,
        image: _LoadedImage,
        prediction: Prediction,
        certificate: PredictionCertificate | ProvenPrediction | None,
    ) -> tuple[Path | None, Path | None]:
        """Write heat map, with the proven defect area if there is one, and reconstruction, and return their paths."""
        if self.folder is None or image.full is None:
            return None, None
        stem = stem_of(image.path)
        heat_map = self.folder / f"{stem}-heat.png"
        framing, (height_px, width_px) = self.detector.config.framing, image.full.shape[:2]
        prediction = prediction.without_padding(framing, height_px, width_px)
        maps, proven = prediction.half_maps, ""
        drawn = (
            draw_half_maps(image.full, maps)
            if maps
            else draw_heat_map(image.full, prediction.anomaly_map, self.calibration)
        )
        if isinstance(certificate, ProvenPrediction) and certificate.lower_map is not None:
            lower_map = certificate.lower_map[framing.window(height_px, width_px)]
            drawn = draw_proven_area(drawn, lower_map, certificate.area_level(self.calibration))
            proven = f"{certificate.norm} {radius_text(certificate.radius, certificate.norm)}"
        if maps:
            drawn = with_legend(drawn, half_legend([half.name for half in prediction.halves], proven))
        write_image(heat_map, drawn)
        if prediction.reconstruction is None:
            return heat_map, None
        reconstruction = self.folder / f"{stem}-reconstruction.png"
        write_image(reconstruction, prediction.reconstruction)
        return heat_map, reconstruction
