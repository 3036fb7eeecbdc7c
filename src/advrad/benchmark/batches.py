"""The work of a bench as tasks for an engine: batches of jobs, and what carries one out wherever an engine puts it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from advrad.benchmark.grid import DetectorEntry, source_digest
from advrad.benchmark.job import JobRunner, Measured
from advrad.benchmark.jobs import Job
from advrad.benchmark.store import cached_folder
from advrad.data.dataset_digest import image_digest
from advrad.errors import DataError
from advrad.utils.files import make_folder
from advrad.utils.progress import ProgressReporter, SilentReporter


@dataclass(frozen=True)
class Batch:
    """Jobs that go one after the other, since they share a training or a detector that others wrap.

    Attributes:
        jobs: The jobs, each with the cells to measure.
    """

    jobs: tuple[Job, ...]


def batches_of(jobs: Iterable[Job]) -> tuple[Batch, ...]:
    """Put jobs together that share what takes long to make, so that it is made once.

    Args:
        jobs: Jobs, each with the cells to measure.

    Returns:
        The batches, in the order of their first jobs.
    """
    jobs = tuple(jobs)
    wrapped = {label for job in jobs for label in _inner_labels(job.detector)}
    groups: list[tuple[set[str], list[Job]]] = []
    for job in jobs:
        shared, members, apart = _shared(job, wrapped), [job], []
        for group in groups:
            if group[0] & shared:
                shared, members = shared | group[0], [*group[1], *members]
            else:
                apart.append(group)
        groups = [*apart, (shared, members)]
    place = {job.name: number for number, job in enumerate(jobs)}
    ordered = [sorted(members, key=lambda job: place[job.name]) for _, members in groups]
    return tuple(Batch(tuple(members)) for members in sorted(ordered, key=lambda members: place[members[0].name]))


def _shared(job: Job, wrapped: set[str]) -> set[str]:
    """Names of what a job needs and others may need too: a trained model, and detectors that are wrapped."""
    labels = {job.detector.label, *_inner_labels(job.detector)} & wrapped
    needed = {f"{label} on {job.category}, seed {job.seed}" for label in labels}
    return needed | ({job.model} if job.model else set())


def _inner_labels(entry: DetectorEntry) -> Iterator[str]:
    """Labels of the detectors inside a detector."""
    while entry.inner is not None:
        entry = entry.inner
        yield entry.label


class _Notes(SilentReporter):
    """Keeps messages until they are taken."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        self._notes.append(text)

    def take(self) -> tuple[str, ...]:
        notes, self._notes = tuple(self._notes), []
        return notes


@dataclass(eq=False)
class BatchRunner:
    """Carries out batches: the work that a bench gives to an engine.

    Attributes:
        place: Folder for trained detectors and interrupted work; None for one in the cache of the machine that
            computes. Such a machine is also checked to have the images and files of this run.
        grid: Path of the grid file.
        size_px: Side in pixels of the images that all detectors are given.
        inner: Labels of detectors that others wrap.
        progress: Receives the progress; None, where it cannot be reached, to hand on messages with the cells.
    """

    place: Path | None
    grid: Path
    size_px: int
    inner: frozenset[str]
    progress: ProgressReporter | None = None
    _notes: _Notes = field(default_factory=_Notes, init=False)
    _runner: JobRunner | None = field(default=None, init=False)
    _checked: set[str] = field(default_factory=set, init=False)

    def __call__(self, batch: Batch) -> Iterator[Measured]:
        """Measure the cells of a batch.

        Args:
            batch: The batch.

        Yields:
            Finished cells, successful or failed.

        Raises:
            DataError: This machine has other images or files than the one that planned the batch.
            OutputError: A folder cannot be written to.
        """
        if self.place is None:
            for job in batch.jobs:
                self._check(job)
        place = cached_folder() if self.place is None else self.place
        if self._runner is None:
            self._runner = JobRunner(place, self.grid, self.size_px, self.progress or self._notes, self.inner)
        for job in batch.jobs:
            with _held(place, job.model or job.name):
                for measured in self._runner.measure(job):
                    yield replace(measured, notes=self._notes.take())

    def _check(self, job: Job) -> None:
        here = f"on the machine {platform.node()}"
        if job.dataset is not None and job.category not in self._checked:
            if image_digest(job.dataset) != job.images:
                raise DataError(
                    f"{job.data}: {here}, the images of {job.category} are missing or others than on the machine that"
                    " began the run; put the same files at this path on every machine"
                )
            self._checked.add(job.category)
        entry: DetectorEntry | None = job.detector
        while entry is not None:
            if source_digest(self.grid, entry.kind, entry.options) != entry.source:
                raise DataError(
                    f"{self.grid}: {here}, the files that {entry.label} depends on are missing or others than on the"
                    " machine that began the run; put the same files at the same paths on every machine"
                )
            entry = entry.inner


@contextmanager
def _held(place: Path, name: str) -> Iterator[None]:
    """Wait for the process of a run that was killed and lives for a moment longer, or for another bench."""
    path = make_folder(place / "work") / f"{name}.lock"
    with FileLock(path):
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
