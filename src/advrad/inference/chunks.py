"""Predict image files in several processes, with the answers in order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from pathlib import Path

from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.prediction import Certifier, ProvenPrediction, prediction_certifier
from advrad.data.records import MAX_PIXELS
from advrad.detectors.identity import identity_of
from advrad.detectors.loading import load_detector
from advrad.detectors.saved import SavedDetector
from advrad.engine.base import Engine
from advrad.errors import DataError
from advrad.inference.prediction import PredictionRecord, predict_paths

#: Images of a chunk: so few that several processes have work, and so many that handing them over costs little.
CHUNK_IMAGES = 16

Answer = PredictionRecord | DataError


@dataclass(frozen=True, slots=True)
class Chunk:
    """Image files that one process predicts.

    Attributes:
        number: Place of the chunk in the order, >= 0.
        sources: Image files, and errors to pass on.
    """

    number: int
    sources: tuple[Path | DataError, ...]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A detector that is ready to predict.

    Attributes:
        detector: The detector.
        certifier: Function that certifies; None for no certificates.
        warnings: What the user should know about the certificates.
    """

    detector: SavedDetector
    certifier: Certifier | None
    warnings: tuple[str, ...]

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU, where batches are faster."""
        return self.detector.device.type == "cuda"


@dataclass(frozen=True, slots=True)
class ChunkPredictor:
    """Predicts chunks; what an engine carries out. The detector is loaded once in each process.

    Attributes:
        folder: Model folder or export.
        device: Device that computes.
        runtime: What computes, see :func:`advrad.detectors.loading.load_detector`.
        certificate: Options of the certificates; None for none.
        max_pixels: Largest accepted image, width times height.
        out: Folder for heat maps and reconstructions; None for none.
        threshold: Threshold in place of the calibrated one; None for that one.
        value_range: Value of white in the image files; None if the files or the training tell it.
    """

    folder: Path
    device: str = "auto"
    runtime: str | None = None
    certificate: PredictionCertificateOptions | None = None
    max_pixels: int = MAX_PIXELS
    out: Path | None = None
    threshold: float | None = None
    value_range: float | None = None

    def __call__(self, chunk: Chunk) -> Iterator[tuple[int, list[Answer]]]:
        """Predict a chunk.

        Args:
            chunk: The chunk.

        Yields:
            Its place and its answers, once.
        """
        found = _kept(self, identity_of(self.folder))
        answers = self.predict(found, chunk.sources, batch_size=8 if found.on_gpu else 1)
        yield chunk.number, [_light(answer) for answer in answers]

    def load(self) -> Predictor:
        """Load the detector.

        Raises:
            CheckpointError: The folder holds no detector.
            ConfigError: An option does not suit the detector.
        """
        detector = load_detector(self.folder, self.device, self.runtime)
        if self.certificate is None:
            return Predictor(detector, None, ())
        certifier, warnings = prediction_certifier(detector, self.certificate)
        return Predictor(detector, certifier, tuple(warnings))

    def predict(
        self, found: Predictor, sources: Iterable[Path | DataError], *, batch_size: int, read_ahead: bool = False
    ) -> Iterator[Answer]:
        """Predict image files in this process.

        Args:
            found: What :meth:`load` returned.
            sources: Image files, and errors to pass on.
            batch_size: See :func:`advrad.inference.predict_paths`, as for the other options.
            read_ahead: Whether to read the next image while one is scored.
        """
        return predict_paths(
            found.detector,
            sources,
            batch_size=batch_size,
            max_pixels=self.max_pixels,
            out=self.out,
            certifier=found.certifier,
            threshold=self.threshold,
            value_range=self.value_range,
            read_ahead=read_ahead,
        )


def predict_chunks(
    predictor: ChunkPredictor, sources: Iterable[Path | DataError], engine: Engine
) -> Generator[Answer, None, None]:
    """Predict image files by an engine.

    Args:
        predictor: What predicts.
        sources: Image files, and errors to pass on. They are taken a chunk at a time.
        engine: Who does the work.

    Yields:
        The answers of :func:`advrad.inference.predict_paths`, in the order of the sources.

    Raises:
        AdvradError: What :func:`advrad.inference.predict_paths` raises; or processes end again and again.

    Example:
        Needs a model folder.

        >>> with open_engine(jobs=2) as engine:  # doctest: +SKIP
        ...     answers = list(predict_chunks(ChunkPredictor(Path("run")), paths, engine))
    """
    waiting: dict[int, list[Answer]] = {}
    turn = 0
    with closing(engine.run(predictor, _chunks(sources))) as finished:
        for number, answers in finished:
            waiting[number] = answers
            while turn in waiting:
                yield from waiting.pop(turn)
                turn += 1


def _chunks(sources: Iterable[Path | DataError]) -> Iterator[Chunk]:
    rest = iter(sources)
    for number in count():
        some = tuple(islice(rest, CHUNK_IMAGES))
        if not some:
            return
        yield Chunk(number, some)


@lru_cache(maxsize=1)
def _kept(predictor: ChunkPredictor, identity: str) -> Predictor:
    """What predicts, kept as long as the folder holds the same detector."""
    return predictor.load()


def _light(answer: Answer) -> Answer:
    """An answer without the map of its proof, which was drawn already, and is much to hand over."""
    if isinstance(answer, PredictionRecord) and isinstance(answer.certificate, ProvenPrediction):
        return replace(answer, certificate=replace(answer.certificate, lower_map=None))
    return answer
