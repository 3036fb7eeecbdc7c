"""The deliverer: at least once, whatever sinks and store do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from toy_outbox import ToyOutbox, ToySink, inspection, until

import advrad.serving.sinks.deliverer as module
from advrad.serving.records import Inspection
from advrad.serving.sinks import Deliverer
from advrad.serving.sinks.base import Rejected, Unavailable


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(module, "FIRST_REFUSED_WAIT_S", 60.0)
    monkeypatch.setattr(module, "POLL_S", 0.02)


@pytest.fixture
def outbox() -> ToyOutbox:
    return ToyOutbox()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def start(outbox: ToyOutbox, said: list[str]) -> Iterator[object]:
    started: list[Deliverer] = []

    def run(*sinks: ToySink) -> Deliverer:
        deliverer = Deliverer(outbox, sinks, seed=3, tell=said.append)
        started.append(deliverer)
        deliverer.start()
        return deliverer

    yield run
    for deliverer in started:
        assert deliverer.stop(60)


def test_rows_are_delivered_in_order_and_forgotten(outbox: ToyOutbox, start: object) -> None:
    sink = ToySink(batch=3)
    outbox.add("toy", *(inspection(number) for number in range(7)))
    deliverer = start(sink)  # type: ignore[operator]
    until(lambda: not outbox.rows)
    assert sink.calls == [["i00000", "i00001", "i00002"], ["i00003", "i00004", "i00005"], ["i00006"]]
    (status,) = deliverer.status()
    assert (status.pending, status.delivered, status.failures, status.failing, status.seed) == (0, 7, 0, False, 3)
    assert deliverer.names == ("toy",)


def test_a_sink_that_is_down_gets_the_same_batch_again(outbox: ToyOutbox, start: object, said: list[str]) -> None:
    answers: list[Exception | None] = [Unavailable("no answer"), Unavailable("no answer"), None]
    sink = ToySink(answer=lambda _: answers.pop(0) if answers else None)
    outbox.add("toy", inspection(1), inspection(2))
    deliverer = start(sink)  # type: ignore[operator]
    until(lambda: len(sink.calls) >= 1)
    outbox.add("toy", inspection(3))
    until(lambda: not outbox.rows)
    assert sink.calls == [["i00001", "i00002"]] * 3 + [["i00003"]]
    assert said == ["sink toy: no answer; it is tried again", "sink toy: works again"]
    (status,) = deliverer.status()
    assert (status.failures, status.refused, status.last_error, status.failing) == (2, 0, "no answer", False)
    assert status.last_error_at is not None and status.last_error_at <= datetime.now(UTC)


@pytest.mark.parametrize("sent", [1, 2])
def test_a_batch_stays_as_it_is_across_a_restart(outbox: ToyOutbox, start: object, sent: int) -> None:
    """The program dies after it sent and before it knew: the next one sends the same, and then what came since."""
    died = ToySink(answer=lambda _: KeyboardInterrupt())
    worker = module._Worker(outbox, died, 1, lambda text: None)
    outbox.add("toy", *(inspection(number) for number in range(sent)))
    with pytest.raises(KeyboardInterrupt):
        worker._attempt()
    outbox.add("toy", inspection(8), inspection(9))
    sink = ToySink()
    start(sink)  # type: ignore[operator]
    until(lambda: not outbox.rows)
    assert sink.calls == [*died.calls, ["i00008", "i00009"]]


def test_a_sink_without_batches_of_its_own_costs_no_note(outbox: ToyOutbox, start: object) -> None:
    sink = ToySink(keeps_batches=False, answer=lambda _: Unavailable("no answer"))
    outbox.add("toy", inspection(1), inspection(2))
    start(sink)  # type: ignore[operator]
    until(lambda: len(sink.calls) >= 1)
    assert {row.batch for row in outbox.rows.values()} == {None}


def test_a_sink_that_hangs_holds_up_no_other(outbox: ToyOutbox, start: object) -> None:
    let_go = threading.Event()

    def hang(_: Sequence[Inspection]) -> None:
        let_go.wait(120)

    slow, fast = ToySink("slow", answer=hang), ToySink("fast")
    for name in ("slow", "fast"):
        outbox.add(name, *(inspection(number) for number in range(5)))
    start(slow, fast)  # type: ignore[operator]
    try:
        until(lambda: len(fast.taken) == 5)
        assert (slow.taken, outbox.pending("slow")) == ([], 5)
    finally:
        let_go.set()


def test_what_is_refused_waits_and_the_others_go_on(outbox: ToyOutbox, start: object) -> None:
    def refuse(inspections: Sequence[Inspection]) -> Exception | None:
        return Rejected("answered 422") if any(one.id == "i00002" for one in inspections) else None

    sink, begun = ToySink(answer=refuse), datetime.now(UTC)
    outbox.add("toy", *(inspection(number) for number in range(1, 5)))
    deliverer = start(sink)  # type: ignore[operator]
    until(lambda: len(outbox.rows) == 1)
    (row,) = outbox.rows.values()
    until(lambda: outbox.rows[row.id].error is not None)
    assert sink.taken == ["i00001", "i00003", "i00004"]
    # The batch, and then each alone.
    assert sink.calls == [["i00001", "i00002", "i00003", "i00004"], ["i00001"], ["i00002"], ["i00003"], ["i00004"]]
    assert (row.inspection.id, outbox.rows[row.id].error) == ("i00002", "answered 422")
    shortest, longest = timedelta(seconds=30), timedelta(seconds=60)
    assert begun + shortest <= outbox.retry_at[row.id] <= datetime.now(UTC) + longest
    (status,) = deliverer.status()
    assert (status.pending, status.refused) == (1, 2)


def test_a_receiver_that_refuses_everything_is_not_flooded(
    outbox: ToyOutbox, start: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 300.0)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 600.0)
    sink = ToySink(batch=1, answer=lambda _: Rejected("answered 401"))
    outbox.add("toy", *(inspection(number) for number in range(50)))
    start(sink)  # type: ignore[operator]
    until(lambda: len(sink.calls) == 3)
    threading.Event().wait(0.2)
    assert len(sink.calls) == 3


def test_the_receiver_may_ask_for_more_time(outbox: ToyOutbox) -> None:
    worker = module._Worker(outbox, ToySink(), 3, lambda text: None)
    assert worker._wait(1, 1.0, 300.0, Unavailable("busy", retry_after_s=120)) == 120
    assert worker._wait(1, 1.0, 300.0, Unavailable("busy", retry_after_s=1e9)) == module.LONGEST_RETRY_AFTER_S


def test_waits_double_up_to_a_limit_and_come_from_the_seed(outbox: ToyOutbox) -> None:
    def waits(seed: int) -> list[float]:
        worker = module._Worker(outbox, ToySink(), seed, lambda text: None)
        return [worker._wait(attempt, 1.0, 300.0, Unavailable("down")) for attempt in (1, 2, 3, 9, 10, 5000)]

    assert waits(3) == waits(3) != waits(4)
    for wait_s, most_s in zip(waits(3), (1, 2, 4, 256, 300, 300), strict=True):
        assert most_s / 2 <= wait_s <= most_s


def test_a_filter_passes_over_what_is_not_wanted(outbox: ToyOutbox, start: object) -> None:
    sink = ToySink(wants=lambda one: one.defective)
    outbox.add("toy", *(inspection(number, defective=number % 3 == 0) for number in range(9)))
    deliverer = start(sink)  # type: ignore[operator]
    until(lambda: not outbox.rows)
    assert sink.taken == ["i00000", "i00003", "i00006"]
    until(lambda: deliverer.status()[0].passed_over == 6)
    assert deliverer.status()[0].delivered == 3


def test_a_store_that_is_gone_and_back_loses_nothing(outbox: ToyOutbox, start: object) -> None:
    sink = ToySink()
    outbox.broken = True
    deliverer = start_without_rows(outbox, sink)
    try:
        until(lambda: deliverer.status()[0].failures >= 1)
        status = deliverer.status()[0]
        assert (status.pending, status.last_error) == (None, "RuntimeError: the store is gone")
        outbox.broken = False
        outbox.add("toy", inspection(1))
        until(lambda: not outbox.rows)
        assert sink.taken == ["i00001"]
    finally:
        assert deliverer.stop(60)


def start_without_rows(outbox: ToyOutbox, sink: ToySink) -> Deliverer:
    """Start while the store is gone: it was there a moment before."""
    deliverer = Deliverer(outbox, [sink], seed=3)
    outbox.broken = False
    deliverer.start()
    outbox.broken = True
    return deliverer


def test_a_store_that_fails_after_the_delivery_does_not_make_it_happen_again(outbox: ToyOutbox, start: object) -> None:
    def break_store(_: Sequence[Inspection]) -> None:
        outbox.broken = len(sink.calls) == 1

    sink = ToySink(answer=break_store)
    outbox.add("toy", inspection(1))
    deliverer = start(sink)  # type: ignore[operator]
    until(lambda: deliverer.status()[0].failing)
    outbox.broken = False
    until(lambda: not outbox.rows)
    assert sink.calls == [["i00001"]]


def test_stopping_delivers_what_can_be_delivered(outbox: ToyOutbox) -> None:
    sink = ToySink(batch=1)
    outbox.add("toy", *(inspection(number) for number in range(20)))
    deliverer = Deliverer(outbox, [sink], seed=3)
    deliverer.start()
    assert deliverer.stop(60)
    assert (len(sink.taken), outbox.rows, sink.closed) == (20, {}, 1)


def test_stopping_does_not_wait_for_a_sink_that_is_down(outbox: ToyOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 1000.0)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 1000.0)
    sink = ToySink(answer=lambda _: Unavailable("down"))
    outbox.add("toy", inspection(1))
    deliverer = Deliverer(outbox, [sink], seed=3)
    deliverer.start()
    until(lambda: bool(sink.calls))
    assert deliverer.stop(60)
    assert (len(outbox.rows), sink.closed) == (1, 1)


def test_a_sink_that_hangs_is_left_behind_at_the_end(outbox: ToyOutbox) -> None:
    let_go = threading.Event()
    sink = ToySink(answer=lambda _: let_go.wait(120) and None)
    outbox.add("toy", inspection(1))
    deliverer = Deliverer(outbox, [sink], seed=3)
    deliverer.start()
    until(lambda: bool(sink.calls))
    assert not deliverer.stop(0.1)
    let_go.set()
    assert deliverer.stop(60)


def test_rows_of_a_sink_that_is_no_longer_configured_are_told(
    outbox: ToyOutbox, start: object, said: list[str]
) -> None:
    outbox.add("old", inspection(1), inspection(2))
    start(ToySink())  # type: ignore[operator]
    assert said == ["2 deliveries wait for the sink 'old', which is not configured any more"]


def test_a_fault_of_a_sink_with_one_inspection_holds_up_no_other(
    outbox: ToyOutbox, start: object, said: list[str]
) -> None:
    def fail(inspections: Sequence[Inspection]) -> None:
        for one in inspections:
            if one.id == "i00001":
                raise ZeroDivisionError("division by zero")

    sink = ToySink(answer=fail)
    outbox.add("toy", inspection(1), inspection(2), inspection(3))
    start(sink)  # type: ignore[operator]
    until(lambda: len(outbox.rows) == 1)
    assert sink.taken == ["i00002", "i00003"]
    assert said[0] == "sink toy: ZeroDivisionError: division by zero; it is tried again"
