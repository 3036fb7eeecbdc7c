"""Predict image files one after the other, with heat maps and certificates if wanted."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.prediction import Certifier, PredictionCertificate, ProvenPrediction
from advrad.data.images import LARGE_PIXELS, read_resized, read_two_sizes
from advrad.data.png import write_image
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import to_tensor
from advrad.detectors.outputs import Prediction
from advrad.detectors.saved import SavedDetector
from advrad.errors import CheckpointError, DataError, ImageError
from advrad.inference.heatmaps import draw_heat_map, draw_proven_area
from advrad.utils.files import make_folder


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """The prediction for one image file.

    Attributes:
        path: Image file.
        score: Anomaly score; larger is more anomalous.
        threshold: Threshold of the score.
        defective: Whether the score is above the threshold.
        heat_map: File of the heat map; None if none was written; ``overlay`` in JSON.
        reconstruction: File of the reconstruction; None if none was written.
        certificate: Certified or proven verdict; None if none was asked for.

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

    @property
    def verdict(self) -> str:
        """The verdict, ``good`` or ``defective``."""
        return "defective" if self.defective else "good"

    def to_dict(self) -> dict[str, Any]:
        """The prediction as JSON values, with files and certificate only if there are any."""
        values: dict[str, Any] = {
            "path": str(self.path),
            "score": self.score,
            "threshold": self.threshold,
            "verdict": self.verdict,
        }
        if self.heat_map is not None:
            values["overlay"] = str(self.heat_map)
        if self.reconstruction is not None:
            values["reconstruction"] = str(self.reconstruction)
        if self.certificate is not None:
            values |= self.certificate.to_dict()
        return values


def predict_paths(
    detector: SavedDetector,
    sources: Iterable[Path | DataError],
    *,
    batch_size: int = 1,
    max_pixels: int = MAX_PIXELS,
    out: Path | None = None,
    certifier: Certifier | None = None,
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

    Yields:
        A prediction for each image, or the error of a file that cannot be read.

    Raises:
        NotCalibratedError: The detector has no threshold.
        OutputError: A file cannot be written.
        CheckpointError: A score is not a finite number.
        ConfigError: The radius cannot be certified with the number of samples.

    Example:
        >>> from advrad.inference import predict_paths
        >>> for prediction in predict_paths(detector, [Path("part-0001.png")]):  # doctest: +SKIP
        ...     print(prediction.verdict)
        good
    """
    output = _Output(detector, out, certifier)
    batch: list[_LoadedImage] = []
    for source in sources:
        loaded = source if isinstance(source, DataError) else _load(source, detector, max_pixels, output.wanted)
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


@dataclass(frozen=True, slots=True)
class _LoadedImage:
    """An image file in memory: at the working size, (3, size, size), and at its own, (h, w, 3), if that is needed."""

    path: Path
    resized: Tensor
    full: npt.NDArray[np.float32] | None

    @property
    def held_pixels(self) -> int:
        return 0 if self.full is None else self.full.shape[0] * self.full.shape[1]


def _load(path: Path, detector: SavedDetector, max_pixels: int, full: bool) -> _LoadedImage | ImageError:
    try:
        if not full:
            return _LoadedImage(path, read_resized(path, detector.image_size_px, max_pixels), None)
        image, resized = read_two_sizes(path, detector.image_size_px, max_pixels)
    except ImageError as error:
        return error
    return _LoadedImage(path, resized, image)


class _Output:
    """Scores images, certifies them, and writes their heat maps.

    Args:
        detector: Calibrated detector.
        folder: Folder for heat maps and reconstructions, or None.
        certifier: Function that certifies an image, or None.
    """

    def __init__(self, detector: SavedDetector, folder: Path | None, certifier: Certifier | None) -> None:
        self.detector = detector
        self.calibration = detector.calibration
        self.folder = None if folder is None else make_folder(folder)
        self.certifier = certifier
        self.wanted = folder is not None or certifier is not None

    def predict(self, batch: Sequence[_LoadedImage]) -> Iterator[PredictionRecord]:
        """Predict loaded images; the batch may be empty."""
        if not batch:
            return
        images = torch.stack([image.resized for image in batch])
        for image, prediction in zip(batch, self.detector.predict(images, len(batch)), strict=True):
            if not math.isfinite(prediction.score):
                raise CheckpointError(
                    f"{image.path}: its score is {prediction.score}; the model is damaged or diverged: train it again"
                )
            certificate = self._certify(image)
            heat_map, reconstruction = self._draw(image, prediction, certificate)
            yield PredictionRecord(
                image.path,
                prediction.score,
                prediction.threshold,
                prediction.defective,
                heat_map,
                reconstruction,
                certificate,
            )

    def _certify(self, image: _LoadedImage) -> PredictionCertificate | ProvenPrediction | None:
        """Certify the verdict on an image."""
        if self.certifier is None or image.full is None:
            return None
        return self.certifier(image.path.name, to_tensor(image.full), image.resized)

    def _draw(
        self,
        image: _LoadedImage,
        prediction: Prediction,
        certificate: PredictionCertificate | ProvenPrediction | None,
    ) -> tuple[Path | None, Path | None]:
        """Write heat map, with the proven defect area if there is one, and reconstruction, and return their paths."""
        if self.folder is None or image.full is None:
            return None, None
        # The file's own name, and a digest of its place: files of the same name do not overwrite each other.
        digest = hashlib.blake2b(os.fsencode(image.path.resolve()), digest_size=5).hexdigest()
        # A name may have 255 bytes, and the longest character has four.
        stem = f"{image.path.name[:50]}-{digest}"
        heat_map = self.folder / f"{stem}-heat.png"
        drawn = draw_heat_map(image.full, prediction.anomaly_map, self.calibration)
        if isinstance(certificate, ProvenPrediction) and certificate.lower_map is not None:
            drawn = draw_proven_area(drawn, certificate.lower_map, certificate.area_level(self.calibration))
        write_image(heat_map, drawn)
        if prediction.reconstruction is None:
            return heat_map, None
        reconstruction = self.folder / f"{stem}-reconstruction.png"
        write_image(reconstruction, prediction.reconstruction)
        return heat_map, reconstruction
