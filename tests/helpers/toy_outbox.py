"""An outbox in memory, inspections to deliver, and a sink that does what a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from advrad.serving.records import Inspection, OutboxRow

START = datetime(2026, 11, 27, 8, 30, tzinfo=UTC)


def inspection(number: int, *, defective: bool = False, product: str = "flange", **changes: object) -> Inspection:
    made = Inspection(
        id=f"i{number:05d}",
        product=product,
        at=START + timedelta(seconds=number),
        picture=f"{number:064x}",
        file_name=f"part-{number}.png",
        part_id=f"P{number}",
        station=None,
        height_px=480,
        width_px=640,
        score=0.25 + number,
        threshold=0.5,
        defective=defective,
        verdict="defective" if defective else "good",
        calibration=0,
        model="m1",
        brightness=0.5,
        sharpness=0.1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


class ToyOutbox:
    """Keeps rows in memory; `broken` makes every call fail, as a store that is gone does."""

    def __init__(self) -> None:
        self.rows: dict[int, OutboxRow] = {}
        self.retry_at: dict[int, datetime] = {}
        self.broken = False
        self._lock = threading.Lock()

    def add(self, sink: str, *inspections: Inspection) -> None:
        with self._lock:
            for one in inspections:
                number = max(self.rows, default=0) + 1
                self.rows[number] = OutboxRow(number, sink, one)

    def due(self, sink: str, now: datetime, limit: int) -> list[OutboxRow]:
        self._check()
        with self._lock:
            found = [row for row in self.rows.values() if row.sink == sink and self.retry_at.get(row.id, now) <= now]
            found = sorted(found, key=lambda row: row.id)[:limit]
            return list(takewhile(lambda row: row.batch == found[0].batch, found))

    def together(self, ids: Sequence[int]) -> None:
        self._check()
        with self._lock:
            for number in ids:
                self.rows[number] = replace(self.rows[number], batch=min(ids))

    def delivered(self, ids: Sequence[int]) -> None:
        self._check()
        with self._lock:
            for number in ids:
                self.rows.pop(number, None)

    def failed(self, id: int, error: str, retry_at: datetime) -> None:
        self._check()
        with self._lock:
            self.rows[id] = replace(self.rows[id], attempts=self.rows[id].attempts + 1, error=error)
            self.retry_at[id] = retry_at

    def pending(self, sink: str) -> int:
        self._check()
        return sum(row.sink == sink for row in list(self.rows.values()))

    def waiting(self) -> dict[str, int]:
        return {name: self.pending(name) for name in {row.sink for row in self.rows.values()}}

    def _check(self) -> None:
        if self.broken:
            raise RuntimeError("the store is gone")


@dataclass
class ToySink:
    """Takes inspections, or raises what `answer` returns for them."""

    name: str = "toy"
    kind: str = "toy"
    batch: int = 5
    keeps_batches: bool = True
    answer: Callable[[Sequence[Inspection]], Exception | None] = lambda inspections: None
    wants: Callable[[Inspection], bool] = lambda inspection: True
    calls: list[list[str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    def open(self) -> None:
        self.opened += 1

    def send(self, inspections: Sequence[Inspection]) -> None:
        ids = [one.id for one in inspections]
        self.calls.append(ids)
        error = self.answer(inspections)
        if error is not None:
            raise error
        self.taken += ids

    def close(self) -> None:
        self.closed += 1


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition, and fail where it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
