"""Empties the outbox: one thread for each sink, so that no sink holds up another, or an inspection.

Each inspection is delivered at least once: its row stays in the outbox until the sink has said that it holds it, and a
row that was sent while the program died is sent again. After a failure the thread waits, longer each time, and never
gives up. What a receiver refuses waits for itself, longer still, while later inspections go on.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from advrad.errors import AdvradError
from advrad.serving.records import Inspection, OutboxRow
from advrad.serving.sinks.base import DeliveryError, Rejected, Sink
from advrad.utils.seeding import seed_of

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
"""Seconds between the first two attempts to reach a sink; the wait doubles up to the second value."""

FIRST_REFUSED_WAIT_S, LONGEST_REFUSED_WAIT_S = 60.0, 900.0
"""The same for an inspection that a receiver refuses."""

LONGEST_RETRY_AFTER_S = 3600.0
"""Longest wait that a receiver may ask for."""

POLL_S = 0.5
"""Seconds between two looks into an empty outbox."""

#: Refusals in a row after which the sink itself is taken for the reason, not the inspections.
_PATIENCE = 3


class Outbox(Protocol):
    """What the deliverer needs of the store. All methods may be called from several threads."""

    def due(self, sink: str, now: datetime, limit: int, /) -> Sequence[OutboxRow]:
        """Rows of a sink whose time has come, the oldest first; where that one was sent with others, these alone."""

    def together(self, ids: Sequence[int], /) -> None:
        """Note that rows are sent together."""

    def delivered(self, ids: Sequence[int], /) -> None:
        """Forget rows that were delivered."""

    def failed(self, row_id: int, error: str, retry_at: datetime, /) -> None:
        """Note that a row was not delivered, and when to try again."""

    def pending(self, sink: str, /) -> int:
        """Number of rows of a sink."""

    def waiting(self) -> dict[str, int]:
        """Number of rows by sink, also of sinks that are no longer configured."""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How a sink does, since the program started.

    Attributes:
        name: Name of the sink.
        kind: Kind of the sink.
        seed: Seed of its random waits.
        pending: Inspections that wait; None if the store does not answer.
        delivered: Inspections that the sink has taken.
        passed_over: Inspections that the sink does not want.
        failures: Failed attempts.
        refused: Those of them in which the receiver refused what was sent.
        failing: Whether the last attempt failed.
        last_error: Why the last failed attempt failed; None if none did.
        last_error_at: Time of it, in UTC.
    """

    name: str
    kind: str
    seed: int
    pending: int | None = 0
    delivered: int = 0
    passed_over: int = 0
    failures: int = 0
    refused: int = 0
    failing: bool = False
    last_error: str | None = None
    last_error_at: datetime | None = None


class Deliverer:
    """Delivers what is in the outbox to all sinks.

    Args:
        outbox: Outbox of the store.
        sinks: The sinks; the deliverer closes them when it stops.
        seed: Seed of the random part of waits; None to draw one, which the status tells.
        tell: Function that is told in words when a sink begins to fail, and when it works again.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[Sink],
        *,
        seed: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        seed = secrets.randbits(32) if seed is None else seed
        self._outbox, self._tell = outbox, tell
        self._workers = [_Worker(outbox, sink, seed, tell) for sink in sinks]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sinks, for which each new inspection needs a row in the outbox."""
        return tuple(worker.sink.name for worker in self._workers)

    def start(self) -> None:
        """Start to deliver, and tell of rows whose sink is no longer configured."""
        for name, count in self._outbox.waiting().items():
            if name not in self.names:
                rows = "1 delivery waits" if count == 1 else f"{count} deliveries wait"
                self._tell(f"{rows} for the sink {name!r}, which is not configured any more")
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Look into the outbox now, such as after new inspections."""
        for worker in self._workers:
            worker.wake()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Deliver what can be delivered now, and stop.

        Args:
            timeout_s: Seconds to wait for all sinks together.

        Returns:
            Whether all threads ended in time. One that waits for a receiver is left behind; its rows stay in the
            outbox.
        """
        deadline = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.finish(deadline)
        return all([worker.join(deadline) for worker in self._workers])

    def status(self) -> list[SinkStatus]:
        """How each sink does."""
        return [worker.status() for worker in self._workers]


class _Worker:
    """Delivers to one sink, in a thread of its own."""

    def __init__(self, outbox: Outbox, sink: Sink, seed: int, tell: Callable[[str], None]) -> None:
        self.sink = sink
        self._outbox, self._tell = outbox, tell
        self._random = random.Random(seed_of(seed, "sink", sink.name))
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._status = SinkStatus(sink.name, sink.kind, seed)
        #: Failed attempts in a row, and refusals among them.
        self._failed = self._refused = 0
        #: Number of rows that are still to be sent alone, because one of them may be the reason for a refusal.
        self._alone = 0
        #: Rows that were delivered, which the outbox does not know yet.
        self._sent: list[int] = []

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def finish(self, deadline: float) -> None:
        self._deadline = deadline
        self._stop.set()
        self._wake.set()

    def join(self, deadline: float) -> bool:
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def status(self) -> SinkStatus:
        try:
            pending = self._outbox.pending(self.sink.name)
        except Exception:  # the status tells what it can, and when the store does not answer, that
            pending = None
        with self._lock:
            return replace(self._status, pending=pending)

    def _run(self) -> None:
        while True:
            wait_s = self._attempt()
            if self._stop.is_set() and (wait_s > 0 or time.monotonic() >= self._deadline):
                break
            # After a failure, new inspections do not shorten the wait.
            (self._stop if self._failed else self._wake).wait(wait_s)
            self._wake.clear()
        try:
            self.sink.close()
        except Exception as error:  # nothing is lost: what counts as delivered was acknowledged before
            self._note(_words(error))

    def _attempt(self) -> float:
        """Deliver a batch; returns the seconds to wait before the next, 0 for none."""
        rows: Sequence[OutboxRow] = ()
        try:
            self._acknowledge()
            self.sink.open()
            rows = self._outbox.due(self.sink.name, datetime.now(UTC), 1 if self._alone else self.sink.batch)
            wanted = [row for row in rows if self.sink.wants(row.inspection)]
            if wanted:
                self._keep_together(rows)
                self._send([row.inspection for row in wanted])
            self._sent = [row.id for row in rows]
            self._count(len(wanted), len(rows) - len(wanted))
            self._acknowledge()
        except Rejected as error:
            return self._was_refused(error, [row for row in rows if self.sink.wants(row.inspection)])
        except DeliveryError as error:
            return self._was_unavailable(error, rows)
        except Exception as error:  # the store does not answer: tell it, and go on
            return self._was_unavailable(error, ())
        return 0.0 if rows else POLL_S

    def _keep_together(self, rows: Sequence[OutboxRow]) -> None:
        """Note what is sent together before it is sent: the program may die in between."""
        if self.sink.keeps_batches and {row.batch for row in rows} != {rows[0].id}:
            self._outbox.together([row.id for row in rows])

    def _send(self, inspections: Sequence[Inspection]) -> None:
        try:
            self.sink.send(inspections)
        except DeliveryError:
            raise
        except Exception as error:  # a fault of the sink may be about these inspections: the others go on
            raise Rejected(_words(error)) from error

    def _acknowledge(self) -> None:
        if self._sent:
            self._outbox.delivered(self._sent)
            self._sent = []

    def _count(self, delivered: int, passed_over: int) -> None:
        worked = not self._status.failing
        self._failed = self._refused = 0
        self._alone = max(0, self._alone - 1)
        with self._lock:
            now = self._status
            self._status = replace(
                now,
                delivered=now.delivered + delivered,
                passed_over=now.passed_over + passed_over,
                failing=False,
            )
        if not worked:
            self._tell(f"sink {self.sink.name}: works again")

    def _was_unavailable(self, error: Exception, rows: Sequence[OutboxRow]) -> float:
        self._failed += 1
        self._note(_words(error))
        for row in rows:
            self._fail(row, error, 0.0)
        return self._wait(self._failed, FIRST_WAIT_S, LONGEST_WAIT_S, error)

    def _was_refused(self, error: Rejected, rows: Sequence[OutboxRow]) -> float:
        self._failed += 1
        self._refused += 1
        self._alone = max(0, self._alone - 1)
        self._note(_words(error), refused=True)
        if len(rows) > 1:  # one of them may be the reason: send each alone
            self._alone = len(rows)
            return 0.0
        for row in rows:
            wait_s = self._wait(row.attempts + 1, FIRST_REFUSED_WAIT_S, LONGEST_REFUSED_WAIT_S, error)
            self._fail(row, error, wait_s)
        if self._refused < _PATIENCE:
            return 0.0
        return self._wait(self._refused - _PATIENCE + 1, FIRST_WAIT_S, LONGEST_WAIT_S, error)

    def _fail(self, row: OutboxRow, error: Exception, wait_s: float) -> None:
        """Note a failure in the outbox; where the store does not answer, the status tells that instead."""
        try:
            self._outbox.failed(row.id, _words(error), datetime.now(UTC) + timedelta(seconds=wait_s))
        except Exception as other:  # the row stays due, and the next attempt meets the store again
            self._note(_words(other))

    def _note(self, words: str, *, refused: bool = False) -> None:
        with self._lock:
            before = self._status
            self._status = replace(
                before,
                failures=before.failures + 1,
                refused=before.refused + refused,
                failing=True,
                last_error=words,
                last_error_at=datetime.now(UTC),
            )
        if not before.failing or before.last_error != words:
            self._tell(f"sink {self.sink.name}: {words}; it is tried again")

    def _wait(self, attempt: int, first_s: float, longest_s: float, error: Exception) -> float:
        """Seconds to wait: doubled at each attempt, with a random half, and as long as the receiver asks."""
        wait_s = min(longest_s, first_s * 2.0 ** min(attempt - 1, 20)) * self._random.uniform(0.5, 1.0)
        asked_s = error.retry_after_s if isinstance(error, DeliveryError) else None
        return max(wait_s, min(asked_s or 0.0, LONGEST_RETRY_AFTER_S))


def _words(error: Exception) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DeliveryError | AdvradError) else f"{type(error).__name__}: {text}"
