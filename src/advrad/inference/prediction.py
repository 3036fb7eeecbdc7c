"""Predict image files one after the other, with heat maps and certificates if wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from advrad.certificates.prediction import Certifier, PredictionCertificate, ProvenPrediction
from advrad.data.images import LARGE_PIXELS
from advrad.data.loading import map_ahead
from advrad.data.png import write_image
from advrad.data.records import MAX_PIXELS
from advrad.data.value_range import ImageLevels
from advrad.detectors.saved import SavedDetector
from advrad.detectors.verdicts import HalfReport, Verdict
from advrad.errors import DataError, ImageError
from advrad.inference.heat_map_files import claim_heat_map_folder, stem_of
from advrad.inference.judging import ImageJudge, Judged, LoadedImage, certified


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

    @classmethod
    def of(cls, judged: Judged, heat_map: Path | None = None, reconstruction: Path | None = None) -> Self:
        """The prediction for an image file that was judged.

        Args:
            judged: What the detector says about it.
            heat_map: File of the heat map; None if none was written.
            reconstruction: File of the reconstruction; None if none was written.
        """
        image, found = judged.image, judged.prediction
        return cls(
            image.path,
            found.score,
            found.threshold,
            found.defective,
            heat_map,
            reconstruction,
            judged.certificate,
            image.warning,
            judged.calibrated_threshold,
            image.levels,
            found.verdict_words,
            found.halves,
            found.reason,
        )

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
    judge = ImageJudge(detector, max_pixels=max_pixels, value_range=value_range)
    judge.check_threshold(threshold)
    folder = None if out is None else claim_heat_map_folder(out)
    keep_full = folder is not None or certifier is not None

    def read(source: Path | DataError) -> LoadedImage | DataError:
        try:
            return source if isinstance(source, DataError) else judge.read(source, keep_full=keep_full)
        except ImageError as error:
            return error

    def predict(batch: Sequence[LoadedImage]) -> Iterator[PredictionRecord]:
        for judged in judge.decide(batch, threshold):
            answer = certified(judged, certifier)
            yield PredictionRecord.of(answer, *_drawn(judge, answer, folder))

    batch: list[LoadedImage] = []
    with closing(map_ahead(read, sources, 1) if read_ahead else _each(read, sources)) as images:
        for loaded in images:
            if isinstance(loaded, DataError):
                yield from predict(batch)
                yield loaded
                batch = []
                continue
            batch.append(loaded)
            # Images at their own size are held until they are drawn, so large ones are not collected.
            if len(batch) == batch_size or sum(image.held_pixels for image in batch) > LARGE_PIXELS:
                yield from predict(batch)
                batch = []
    yield from predict(batch)


def _each(
    read: Callable[[Path | DataError], LoadedImage | DataError], sources: Iterable[Path | DataError]
) -> Generator[LoadedImage | DataError, None, None]:
    for source in sources:
        yield read(source)


def _drawn(judge: ImageJudge, judged: Judged, folder: Path | None) -> tuple[Path | None, Path | None]:
    """Write heat map and reconstruction, if there is a folder, and return their paths."""
    if folder is None:
        return None, None
    drawn, stem = judge.draw(judged), stem_of(judged.image.path)
    heat_map = folder / f"{stem}-heat.png"
    write_image(heat_map, drawn.heat_map)
    if drawn.reconstruction is None:
        return heat_map, None
    reconstruction = folder / f"{stem}-reconstruction.png"
    write_image(reconstruction, drawn.reconstruction)
    return heat_map, reconstruction
