"""Judge an archive: any number of images, by any number of processes, into one table."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import advrad
from advrad.archive.judging import PieceJudge, draws, ready
from advrad.archive.listing import PassedOver, pieces_of
from advrad.archive.options import ArchiveOptions
from advrad.archive.pieces import Piece
from advrad.detectors.identity import identity_of
from advrad.engine.base import Engine, Resources, SerialEngine
from advrad.errors import ConfigError
from advrad.utils.buckets import is_url
from advrad.utils.progress import SILENT, Counter, ProgressReporter
from advrad.utils.run_lock import exclusive

if TYPE_CHECKING:
    from advrad.archive.parts import Parts

#: Options of a run without any.
DEFAULTS = ArchiveOptions()


@dataclass(frozen=True, slots=True)
class ArchiveSummary:
    """What the results of an archive say.

    Attributes:
        rows: Number of rows: images, and parts of archives that cannot be read.
        judged: Number of images that were judged now; the others were known.
        defective: Number of images that are called defective.
        broken: Number of rows with an error.
        first_broken: The first of them, with the reason.
        doubtful: Number of images whose score is doubtful.
        first_doubt: The first of them, with the reason.
        passed_over: Files of the folders that are no images.
    """

    rows: int
    judged: int
    defective: int
    broken: int
    first_broken: tuple[str, ...]
    doubtful: int
    first_doubt: str
    passed_over: PassedOver


def judge_archive(
    folder: str | Path,
    sources: Sequence[str],
    results: str | Path,
    *,
    options: ArchiveOptions = DEFAULTS,
    engine: Engine | None = None,
    progress: ProgressReporter = SILENT,
) -> ArchiveSummary:
    """Judge the images of an archive, and write a row for each into a Parquet file.

    What is finished is kept beside the results until all is, so that the same call goes on where it ended. An image
    whose content was judged before by the same detector with the same settings, in this file or beside it, is not
    judged again.

    Args:
        folder: Model folder or export.
        sources: Images, folders, lists of paths (``.txt``), tar files and Parquet files; each a path, a URL, or a
            pattern of these such as ``shard-{000..099}.tar``.
        results: Parquet file to write. Results of the same detector and settings are replaced, others are refused.
        options: What is judged with. The threshold is calibrated unless one is given.
        engine: Who does the work; None for this process.
        progress: Receives the number of finished pieces.

    Returns:
        What the results say.

    Raises:
        DataError: A source does not exist, holds no images, or is named twice, by whatever path; or a bucket does not
            answer.
        ConfigError: A package is missing, or an option does not suit the detector or the sources.
        CheckpointError: The folder holds no detector.
        OutputError: The results are of another detector or of other settings, or cannot be written.
        EngineError: Processes that do the work end again and again.

    Example:
        Needs a model folder.

        >>> summary = judge_archive("run", ["images", "s3://archive/january"], "january.parquet")  # doctest: +SKIP
        >>> summary.rows, summary.defective, summary.broken  # doctest: +SKIP
        (1000000, 812, 3)
    """
    _check(results, sources)
    from advrad.archive.parts import Parts

    model, engine = Path(folder).resolve(), engine or SerialEngine()
    identity = identity_of(model)
    bench = ready(model, identity, options)
    for warning in bench.warnings:
        progress.note(f"warning: {warning}")
    resources = Resources(gpus=1 if bench.judge.detector.device.type == "cuda" else 0)
    options = _with_seed(model, identity, options, Path(results))
    parts = Parts(Path(results), _facts(identity, options))
    passed_over = PassedOver()
    with exclusive(parts.folder, "run"), parts.begun():
        progress.stage("Listing images")
        parts.forget_unreadable()
        count, done = parts.list_pieces(pieces_of(sources, options.image_column, passed_over, Path(results)))
        progress.stage("Judging pieces")
        work = PieceJudge(model, identity, options, parts.facts, os.getcwd(), parts.known() if done < count else None)
        judged = _judge(parts, work, engine, resources, Counter(progress, count, done))
        progress.stage("Joining the results")
        counts = parts.merge()
    return ArchiveSummary(
        counts.rows,
        judged,
        counts.defective,
        counts.broken,
        tuple(counts.first_broken),
        counts.doubtful,
        counts.first_doubt,
        passed_over,
    )


def _judge(parts: Parts, work: PieceJudge, engine: Engine, resources: Resources, counter: Counter) -> int:
    """Judge the pieces that are not finished, and return how many images were judged."""

    def left(piece: Piece) -> Piece | None:
        return None if parts.is_done(piece) else piece

    judged = 0
    todo = (piece for piece in parts.pieces() if not parts.is_done(piece))
    with closing(engine.run(work, todo, left=left, resources=resources)) as found:
        for part in found:
            parts.add(part.fingerprint, part.table)
            judged += part.judged
            counter.advance()
    return judged


def _check(results: str | Path, sources: Sequence[str]) -> None:
    """Refuse what cannot be done at all."""
    if is_url(str(results)):
        raise ConfigError(
            "is a URL, and results are joined on a disk; name a file, and copy it", option="output", value=str(results)
        )
    if not sources:
        raise ConfigError("no source is given; name images, folders, lists or archives")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            "results as Parquet need another package; install it: pip install 'advrad[archive]'"
        ) from None


def _with_seed(model: Path, identity: str, options: ArchiveOptions, results: Path) -> ArchiveOptions:
    """Options with the seed of the noise samples where some are drawn: that of the results which are there, or new."""
    from advrad.archive.parts import known_facts

    certifier = ready(model, identity, options).certifier
    if options.certificate is None or options.certificate.seed is not None or not draws(certifier):
        return options
    before = (known_facts(results) or {}).get("settings") or {}
    stored = before.get("certificate") or {}
    seed = stored.get("seed") if isinstance(stored, dict) else None
    chosen = secrets.randbits(53) if seed is None else seed
    return options.model_copy(update={"certificate": options.certificate.model_copy(update={"seed": chosen})})


def _facts(identity: str, options: ArchiveOptions) -> dict[str, Any]:
    """What stands in the metadata of the results. The device and the column of images change no verdict."""
    settings = options.model_dump(mode="json", exclude={"device", "image_column"})
    return {"model": identity, "advrad": advrad.__version__, "settings": settings}
