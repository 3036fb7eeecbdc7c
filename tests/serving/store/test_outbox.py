"""The outbox, in both databases: what is stored is delivered at least once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.errors import ConfigError
from advrad.serving.store import Store

SECOND = timedelta(seconds=1)


def test_a_stored_inspection_waits_for_each_sink_until_it_has_it(store: Store, db: str, tmp_path: Path) -> None:
    first, second = store.inspections.add_many([toy_inspection(store), toy_inspection(store)], ["mqtt", "hook"])
    rows = store.outbox.due("mqtt", AT)
    assert [(row.inspection, row.sink, row.attempts, row.error) for row in rows] == [
        (first, "mqtt", 0, None),
        (second, "mqtt", 0, None),
    ]
    assert store.outbox.waiting() == {"mqtt": 2, "hook": 2}
    store.outbox.delivered([rows[0].id])
    with Store.open(db, tmp_path) as later:
        assert [row.inspection for row in later.outbox.due("mqtt", AT)] == [second]
        assert (later.outbox.pending("mqtt"), later.outbox.pending("hook"), later.outbox.pending("csv")) == (1, 2, 0)
    assert [row.inspection for row in store.outbox.due("hook", AT, limit=1)] == [first]
    store.outbox.delivered([])
    assert store.outbox.due("csv", AT) == []


def test_what_was_sent_together_is_read_together(store: Store, db: str, tmp_path: Path) -> None:
    first, second, third, fourth = store.inspections.add_many([toy_inspection(store) for _ in range(4)], ["hook"])
    ids = [row.id for row in store.outbox.due("hook", AT)]
    store.outbox.together(ids[:2])
    with Store.open(db, tmp_path) as later:
        rows = later.outbox.due("hook", AT)
        assert [(row.inspection, row.batch) for row in rows] == [(first, ids[0]), (second, ids[0])]
        later.outbox.delivered(ids[:2])
        assert [row.inspection for row in later.outbox.due("hook", AT)] == [third, fourth]


def test_a_failed_row_waits_and_says_why(store: Store) -> None:
    store.inspections.add_many([toy_inspection(store)], ["hook"])
    (row,) = store.outbox.due("hook", AT)
    store.outbox.failed(row.id, "500 from the server \0 \ud800" + "x" * 9999, AT + SECOND)
    assert store.outbox.due("hook", AT) == []
    (row,) = store.outbox.due("hook", AT + SECOND)
    assert row.attempts == 1
    assert (row.error or "").startswith("500 from the server � ?xxx")
    assert len(row.error or "") == 500
    store.outbox.failed(row.id, "again", AT + 3 * SECOND)
    assert store.outbox.due("hook", AT + 3 * SECOND)[0].attempts == 2


def test_a_row_is_due_after_the_clock_was_set_back(store: Store) -> None:
    store.inspections.add_many([toy_inspection(store)], ["hook"])
    past = AT - timedelta(days=400)
    (row,) = store.outbox.due("hook", past)
    store.outbox.failed(row.id, "no answer", AT + SECOND)
    assert len(store.outbox.due("hook", past)) == 1
    assert store.outbox.due("hook", AT + SECOND - timedelta(hours=1)) == []


def test_a_row_tells_the_review_of_now_and_goes_with_its_inspection(store: Store) -> None:
    (one,) = store.inspections.add_many([toy_inspection(store)], ["hook"])
    store.reviews.put(one.id, toy_review("good"))
    assert store.outbox.due("hook", AT)[0].inspection.review == toy_review("good")
    store.inspections.delete(one.id, "ann")
    assert store.outbox.waiting() == {}


def test_a_number_is_not_used_again(store: Store) -> None:
    store.inspections.add_many([toy_inspection(store)], ["hook"])
    (old,) = store.outbox.due("hook", AT)
    store.outbox.delivered([old.id])
    store.inspections.add_many([toy_inspection(store)], ["hook"])
    # A second program that delivers late names a row that is gone, and not the new one.
    store.outbox.delivered([old.id])
    assert store.outbox.pending("hook") == 1


def test_a_name_of_a_sink_that_cannot_be_stored_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"^sink"):
        store.inspections.add_many([toy_inspection(store)], ["\0"])
    assert store.inspections.find() == []
    stored(store)
    assert store.outbox.waiting() == {}
