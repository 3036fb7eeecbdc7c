"""The images that wait to be inspected: so many and so many bytes at most, each answered by its deadline."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from datetime import UTC, datetime

from advrad.serving.errors import DeadlineExceeded, QueueFull, ServingError, Stopping
from advrad.serving.records import InspectionAnswer, InspectionRequest


class Job:
    """An image that was sent, and the promise to answer.

    It is decided once: it either fails, or is claimed, and then its inspection is stored. So a sender who is told that
    the image was too late can rely on it that it is not in the history.

    Args:
        request: The image.
        deadline_s: Seconds within which it must be claimed; None for no limit.
    """

    def __init__(self, request: InspectionRequest, deadline_s: float | None) -> None:
        self.request = request
        self.at = datetime.now(UTC)
        self.future: Future[InspectionAnswer] = Future()
        # The clock of the machine may be set back; this one cannot.
        self.deadline = math.inf if deadline_s is None else time.monotonic() + deadline_s
        self._lock = threading.Lock()
        self._decided = False

    @property
    def is_open(self) -> bool:
        """Whether it is still to be answered: not claimed, not failed, and not given up by its sender."""
        return not self._decided and not self.future.cancelled()

    def check(self) -> None:
        """End a long computation that nobody waits for any more.

        Raises:
            DeadlineExceeded: The job has failed, or its sender has given up.
        """
        if not self.is_open:
            raise DeadlineExceeded("the computation was ended", "send the image again")

    def claim(self) -> bool:
        """Say that the inspection will be stored now.

        Returns:
            Whether it may be: False if the job has failed, or its sender has given up.
        """
        with self._lock:
            if self._decided:
                return False
            self._decided = True
            return self.future.set_running_or_notify_cancel()

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless the job is decided already.

        Args:
            error: Why there is no inspection.
        """
        if self.claim():
            self.future.set_exception(error)


class JobQueue:
    """Jobs in the order in which they came.

    Args:
        most: Most jobs that wait.
        most_bytes: Most bytes of images that wait or are in work.

    Example:
        >>> queue = JobQueue(most=2, most_bytes=100)
        >>> queue.put(Job(InspectionRequest("bottle", b"an image"), deadline_s=10))
        >>> [job] = queue.take(8)
        >>> queue.waiting, queue.held_bytes
        (0, 8)
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._taken: set[Job] = set()
        self._bytes = 0
        self._closed = False
        self._pace_s = 0.0

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    @property
    def held_bytes(self) -> int:
        """Bytes of the images that wait or are in work."""
        return self._bytes

    def put(self, job: Job) -> None:
        """Take a job in, at once or not at all.

        Args:
            job: The job.

        Raises:
            QueueFull: There is no place for it now.
            Stopping: No more jobs are taken.
        """
        size = len(job.request.picture)
        with self._changed:
            self._check(size, job.request.certify)
            self._waiting.append(job)
            self._bytes += size
            self._changed.notify_all()
        job.future.add_done_callback(lambda _: self._forget(job))

    def check(self) -> None:
        """Refuse what would not be taken now, before more is done for it.

        Raises:
            QueueFull: There is no place.
            Stopping: No more jobs are taken.
        """
        with self._changed:
            self._check(0, certify=False)

    def take(self, most: int, sharers: int = 1, *, certify: bool = False) -> list[Job]:
        """Wait for jobs, and take those that are to be inspected together. Give them back with :meth:`release`.

        Args:
            most: Most jobs to take.
            sharers: Number of threads that take jobs; what waits is shared among them.
            certify: Whether to take one that asks for a certificate, which may take long, or others.

        Returns:
            At least one job; none if the queue is closed and holds no such job.
        """
        with self._changed:
            while not (ready := [job for job in self._waiting if job.request.certify is certify]):
                if self._closed:
                    return []
                self._changed.wait()
            batch = ready[: 1 if certify else min(most, math.ceil(len(ready) / sharers))]
            for job in batch:
                self._waiting.remove(job)
                self._taken.add(job)
            return batch

    def release(self, jobs: list[Job], seconds: float) -> None:
        """Say that jobs which were taken are no longer held.

        Args:
            jobs: The jobs.
            seconds: Seconds that their inspection took.
        """
        with self._changed:
            for job in jobs:
                self._taken.discard(job)
                self._bytes -= len(job.request.picture)
            each = seconds / max(1, len(jobs))
            self._pace_s = each if not self._pace_s else 0.8 * self._pace_s + 0.2 * each
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more jobs in. Those that wait are still taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail_waiting(self, error: ServingError) -> None:
        """Fail all jobs that wait or are in work, and are not decided yet.

        Args:
            error: Why.
        """
        with self._changed:
            jobs = [*self._waiting, *self._taken]
        for job in jobs:
            job.fail(error)

    def keep_deadlines(self) -> None:
        """Fail jobs whose deadline has passed, as soon as it has; returns when the queue is closed and empty."""
        while True:
            with self._changed:
                if self._closed and not self._waiting and not self._taken:
                    return
                now = time.monotonic()
                jobs = [job for job in (*self._waiting, *self._taken) if job.is_open]
                late = [job for job in jobs if job.deadline <= now]
                if not late:
                    nearest = min((job.deadline for job in jobs), default=math.inf)
                    self._changed.wait(None if nearest == math.inf else nearest - now)
                    continue
            for job in late:
                job.fail(DeadlineExceeded("the image was not inspected in time", "send it again, or send fewer"))

    def _check(self, size: int, certify: bool) -> None:
        """Refuse an image of so many bytes if there is no place for it."""
        if self._closed:
            raise Stopping("the service stops", "send the image again when it is back")
        # Certificates take long, so they get a part of the places only.
        slow = sum(one.request.certify for one in self._waiting) if certify else 0
        full = len(self._waiting) >= self._most or slow >= max(1, self._most // 4)
        if full or (self._bytes and self._bytes + size > self._most_bytes):
            raise QueueFull(
                f"{len(self._waiting)} images of {self._bytes / 1e6:.3g} MB wait already",
                "send the image again in a moment",
                max(1, math.ceil(self._pace_s * len(self._waiting))),
            )

    def _forget(self, job: Job) -> None:
        """Drop a job that was answered while it waited. One in work is held until it is released."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._bytes -= len(job.request.picture)
                self._changed.notify_all()
