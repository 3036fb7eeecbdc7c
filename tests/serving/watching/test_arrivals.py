"""When files are looked at, by a clock of the test."""

from __future__ import annotations

from advrad.serving.watching.arrivals import Arrivals
from advrad.serving.watching.scanning import Stamp


def stamp(time: int, size: int = 1) -> Stamp:
    return Stamp(size, time, time, 1)


def drained(arrivals: Arrivals, now_s: float) -> list[str]:
    found = []
    while (one := arrivals.next(now_s)) is not None:
        found.append(one.name)
        arrivals.done(one)
    return found


def test_a_file_waits_until_it_has_settled() -> None:
    arrivals = Arrivals(settle_s=2)
    arrivals.update({"a": stamp(1)}, 0)
    assert drained(arrivals, 1.9) == []
    arrivals.update({"a": stamp(2)}, 1.95)
    assert drained(arrivals, 3.9) == []
    assert arrivals.unfinished == 1
    assert drained(arrivals, 4) == ["a"]
    arrivals.update({"a": stamp(2)}, 5)
    assert (drained(arrivals, 100), arrivals.unfinished) == ([], 0)


def test_what_was_written_first_comes_first() -> None:
    arrivals = Arrivals(settle_s=0)
    arrivals.update({"new": stamp(9), "old": stamp(3), "older": stamp(2)}, 0)
    assert drained(arrivals, 0) == ["older", "old", "new"]


def test_a_changed_file_is_looked_at_again() -> None:
    arrivals = Arrivals(settle_s=1)
    arrivals.update({"a": stamp(1)}, 0)
    assert drained(arrivals, 1) == ["a"]
    arrivals.update({"a": stamp(1, size=2)}, 2)
    assert drained(arrivals, 3) == ["a"]
    # A clock that is set back changes the stamp, too.
    arrivals.update({"a": stamp(0, size=2)}, 4)
    assert drained(arrivals, 5) == ["a"]


def test_a_file_that_changes_while_it_is_busy_is_looked_at_afterwards() -> None:
    arrivals = Arrivals(settle_s=1)
    arrivals.update({"a": stamp(1)}, 0)
    busy = arrivals.next(1)
    assert busy is not None
    arrivals.update({"a": stamp(2)}, 2)
    assert arrivals.next(10) is None
    arrivals.done(busy)
    arrivals.update({"a": stamp(2)}, 11)
    assert drained(arrivals, 12) == ["a"]


def test_a_file_is_tried_again_at_its_time() -> None:
    arrivals = Arrivals(settle_s=0)
    arrivals.update({"a": stamp(1), "b": stamp(2)}, 0)
    first = arrivals.next(0)
    assert first is not None and first.name == "a"
    arrivals.again(first, 5)
    assert drained(arrivals, 4) == ["b"]
    second = arrivals.next(5)
    assert second is first and second.tries == 2


def test_files_that_are_gone_are_forgotten() -> None:
    arrivals = Arrivals(settle_s=0)
    arrivals.update({"a": stamp(1), "b": stamp(2)}, 0)
    busy = arrivals.next(0)
    assert busy is not None
    arrivals.update({}, 1)
    arrivals.again(busy, 2)
    assert (drained(arrivals, 10), arrivals.unfinished) == ([], 0)
    arrivals.update({"a": stamp(1)}, 11)
    assert drained(arrivals, 11) == ["a"]
    one = Arrivals(settle_s=0)
    one.update({"a": stamp(1)}, 0)
    taken = one.next(0)
    assert taken is not None
    one.changed(taken)
    one.update({"a": stamp(1)}, 1)
    assert drained(one, 1) == ["a"]


def test_a_file_that_never_rests_is_named() -> None:
    arrivals = Arrivals(settle_s=2)
    for now_s in range(12):
        arrivals.update({"latest": stamp(now_s), "quiet": stamp(1)}, now_s)
        assert drained(arrivals, now_s) == (["quiet"] if now_s == 2 else [])
        assert arrivals.restless(10, now_s) == (["latest"] if now_s > 10 else [])
    assert drained(arrivals, 13) == ["latest"]
    arrivals.update({"latest": stamp(99)}, 30)
    assert arrivals.restless(10, 30) == []
