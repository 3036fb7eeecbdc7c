"""What a process does with a piece of an archive: read its images, judge those that are not known, and hand on rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from advrad.archive.known import Known
from advrad.archive.options import ArchiveOptions
from advrad.archive.pieces import Content, Piece
from advrad.archive.reading import contents_of_piece
from advrad.archive.rows import encoded
from advrad.certificates.prediction import Certifier, ProvenPrediction, prediction_certifier
from advrad.detectors.identity import identity_of
from advrad.detectors.loading import load_detector
from advrad.errors import CheckpointError, ImageError
from advrad.inference.judging import ImageJudge, Judged, LoadedImage, certified
from advrad.inference.prediction import PredictionRecord

#: Largest image file that is read, whatever the number of pixels; and bytes of a pixel: four numbers of 32 bits.
_MOST_BYTES, _PIXEL_BYTES = 1 << 30, 16
#: Images that are judged at once on a GPU; on a CPU, batches gain nothing.
_GPU_BATCH = 8


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a piece.

    Attributes:
        fingerprint: Fingerprint of the piece.
        table: Content of a Parquet file.
        judged: Number of images that were judged.
        known: Number of images whose verdict was known.
    """

    fingerprint: str
    table: bytes
    judged: int
    known: int


@dataclass(frozen=True, slots=True)
class Bench:
    """A detector that is ready to judge.

    Attributes:
        judge: Reads and decides.
        certifier: Certifies; None for no certificates.
        warnings: What the user should know about the certificates.
        batch: Number of images that are judged at once.
    """

    judge: ImageJudge
    certifier: Certifier | None
    warnings: tuple[str, ...]
    batch: int


@lru_cache(maxsize=1)
def ready(folder: Path, identity: str, options: ArchiveOptions) -> Bench:
    """Load a detector, once in each process.

    Args:
        folder: Model folder or export.
        identity: What identifies its detector.
        options: What it judges with.

    Raises:
        CheckpointError: The folder holds no detector, or another.
        ConfigError: An option does not suit the detector.
        NotCalibratedError: The detector has no threshold.
    """
    if identity_of(folder) != identity:
        raise CheckpointError(
            f"{folder}: holds another detector than where this run was started; copy the folder to each machine"
        )
    detector = load_detector(folder, options.device, options.runtime)
    judge = ImageJudge(detector, max_pixels=options.max_pixels, value_range=options.value_range)
    judge.check_threshold(options.threshold)
    certifier: Certifier | None = None
    warnings: list[str] = []
    if options.certificate is not None:
        certifier, warnings = prediction_certifier(detector, options.certificate)
    return Bench(judge, certifier, tuple(warnings), _GPU_BATCH if detector.device.type == "cuda" else 1)


def draws(certifier: Certifier | None) -> bool:
    """Whether certificates draw noise samples.

    Args:
        certifier: Function that certifies; None for no certificates.
    """
    return hasattr(certifier, "sampler")


@dataclass(frozen=True, slots=True)
class PieceJudge:
    """Judges pieces; what an engine carries out.

    Attributes:
        folder: Model folder or export, an absolute path.
        identity: What identifies its detector.
        options: What it judges with.
        facts: What stands in the metadata of each part.
        base: Folder in which relative paths of the sources begin.
        known: File of what is known; None for none.
    """

    folder: Path
    identity: str
    options: ArchiveOptions
    facts: dict[str, Any]
    base: str
    known: Path | None

    def __call__(self, piece: Piece) -> Iterator[Part]:
        """Judge a piece.

        Args:
            piece: The piece.

        Yields:
            Its rows, as one part.
        """
        bench = ready(self.folder, self.identity, self.options)
        rows: list[dict[str, Any]] = []
        waiting: list[tuple[dict[str, Any], LoadedImage]] = []
        judged = known = 0
        most = max(_MOST_BYTES, _PIXEL_BYTES * self.options.max_pixels)
        with closing(Known(self.known)) as verdicts, closing(contents_of_piece(piece, self.base, most)) as contents:
            for content in contents:
                row = self._row(content)
                rows.append(row)
                if content.data is None:
                    continue
                if (found := verdicts.find(row["content"])) is not None:
                    row |= found
                    known += 1
                    continue
                image = _read(bench, content)
                if isinstance(image, ImageError):
                    row["error"] = image.reason
                    continue
                judged += 1
                waiting.append((row, image))
                if len(waiting) == bench.batch:
                    self._decide(bench, waiting)
                    waiting = []
            self._decide(bench, waiting)
        yield Part(piece.fingerprint, encoded(rows, self.facts), judged, known)

    def _row(self, content: Content) -> dict[str, Any]:
        """The row of an image that is not judged yet."""
        row: dict[str, Any] = {"path": content.name, "model": self.identity}
        if content.data is None:
            return row | {"error": content.reason}
        return row | {"content": hashlib.sha256(content.data).hexdigest()}

    def _decide(self, bench: Bench, waiting: Sequence[tuple[dict[str, Any], LoadedImage]]) -> None:
        """Judge images, and fill in their rows."""
        found = bench.judge.decide([image for _, image in waiting], self.options.threshold)
        for (row, _), judged in zip(waiting, found, strict=True):
            row |= _verdict(certified(judged, bench.certifier))


def _read(bench: Bench, content: Content) -> LoadedImage | ImageError:
    try:
        return bench.judge.read_content(content.data or b"", content.name, keep_full=bench.certifier is not None)
    except ImageError as error:
        return error


def _verdict(judged: Judged) -> dict[str, Any]:
    """What a row says about a judged image."""
    record = PredictionRecord.of(judged)
    proof = record.certificate
    radius = None if proof is None else proof.reach if isinstance(proof, ProvenPrediction) else proof.radius
    doubts = [text for text in (record.warning, record.reason) if text]
    return {
        "score": record.score,
        "threshold": record.threshold,
        "verdict": record.verdict,
        "defective": record.defective,
        "proven_radius": radius,
        "warning": "; ".join(doubts) or None,
    }
