"""The audit log, in both databases: nobody changes it unseen, and several processes append to one chain."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from store_writer import go, start_writer
from toy_inspections import stored, toy_review

from advrad.errors import ConfigError
from advrad.serving.store import Store
from advrad.serving.store.chain import START
from advrad.serving.store.database import database_url


@pytest.fixture
def change(db: str, tmp_path: Path) -> Callable[..., None]:
    """A function that runs statements behind the back of the store."""

    def run(*statements: str) -> None:
        engine = create_engine(database_url(db, tmp_path))
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    return run


@pytest.fixture
def log(store: Store) -> Store:
    """A store whose audit log has five rows."""
    for n in range(1, 6):
        store.audit.append("sign in", f"subject {n}", "ann", {"n": n, "words": "é\0'; --"})
    return store


def test_rows_are_read_as_they_were_written(log: Store) -> None:
    rows = log.audit.rows()
    assert [row.n for row in rows] == [1, 2, 3, 4, 5]
    first = rows[0]
    assert (first.action, first.subject, first.by) == ("sign in", "subject 1", "ann")
    assert first.facts == {"n": 1, "words": "é\0'; --"}
    assert (first.previous, rows[1].previous) == (START, first.hash)
    assert first.at.tzinfo == UTC
    assert abs(datetime.now(UTC) - first.at) < timedelta(minutes=5)
    assert [row.n for row in log.audit.rows(after=2, limit=2)] == [3, 4]
    assert [row.n for row in log.audit.rows(limit=2, newest_first=True)] == [5, 4]
    assert [row.n for row in log.audit.rows(after=4, limit=2, newest_first=True)] == [3, 2]
    report = log.audit.verify()
    assert (report.whole, report.rows, report.head) == (True, 5, rows[-1].hash)


def test_a_new_log_is_whole(store: Store) -> None:
    report = store.audit.verify()
    assert (report.whole, report.rows, report.head) == (True, 0, START)


@pytest.mark.parametrize(
    ("statements", "broken", "words"),
    [
        (["UPDATE audit SET subject = 'x' WHERE n = 2"], 2, "row 2 was changed: its hash does not fit its content"),
        (["UPDATE audit SET facts = 'no JSON' WHERE n = 3"], 3, "row 3 was changed"),
        (["UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE n = 1"], 1, "row 1 was changed"),
        (["DELETE FROM audit WHERE n = 3"], 3, "row 3 is missing; row 4 follows row 2"),
        (["DELETE FROM audit WHERE n = 1"], 1, "row 1 is missing; row 2 follows row 0"),
        (["DELETE FROM audit WHERE n > 3"], 4, "rows 4 to 5 are missing, though each row up to row 3 is whole"),
        (["DELETE FROM audit"], 1, "rows 1 to 5 are missing"),
        (["DELETE FROM audit_end"], 6, "the note of the last row is missing"),
        (["UPDATE audit_end SET n = 4"], 5, "the noted last row is row 4"),
        (
            [
                "UPDATE audit SET n = 9 WHERE n = 2",
                "UPDATE audit SET n = 2 WHERE n = 3",
                "UPDATE audit SET n = 3 WHERE n = 9",
            ],
            2,
            "row 2 does not follow the row before",
        ),
        (
            [
                'INSERT INTO audit (n, at, action, subject, "by", facts, previous, hash) '
                'SELECT 6, at, action, subject, "by", facts, hash, hash FROM audit WHERE n = 5'
            ],
            6,
            "row 6 was changed",
        ),
        (
            [
                'INSERT INTO audit (n, at, action, subject, "by", facts, previous, hash) '
                'SELECT 0, at, action, subject, "by", facts, previous, hash FROM audit WHERE n = 1'
            ],
            1,
            "row 0 was inserted",
        ),
    ],
    ids=lambda value: None if isinstance(value, str | int) else value[0][:60],
)
def test_a_change_behind_the_back_is_found(
    log: Store, change: Callable[..., None], statements: list[str], broken: int, words: str
) -> None:
    change(*statements)
    report = log.audit.verify()
    assert (report.whole, report.broken) == (False, broken)
    assert report.problem.startswith(words)


def test_the_log_goes_on_after_damage_and_the_damage_stays_visible(log: Store, change: Callable[..., None]) -> None:
    change("DELETE FROM audit WHERE n = 5")
    log.audit.append("later", "x", "ann")
    assert log.audit.verify().broken == 5
    assert log.audit.rows()[-1].action == "later"
    change("DELETE FROM audit_end")
    log.audit.append("later", "x", "ann")
    assert log.audit.rows()[-1].n == 7


def test_a_noted_head_finds_what_the_chain_alone_cannot(log: Store, change: Callable[..., None]) -> None:
    head = log.audit.verify().head
    log.audit.append("later", "x", "ann")
    assert log.audit.verify(head).whole
    fourth = log.audit.rows()[3].hash
    change("DELETE FROM audit WHERE n > 4", f"UPDATE audit_end SET n = 4, hash = '{fourth}'")
    assert log.audit.verify().whole
    assert log.audit.verify(fourth).whole
    assert not log.audit.verify(head).whole
    with pytest.raises(ConfigError, match=r"^head: is no SHA-256"):
        log.audit.verify("abc")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a" * 101, "s", "b"), "action"),
        (("a", "s\0", "b"), "subject"),
        (("a", "s", "\udcff"), "by"),
        (("a", "s", "b", {"x": float("nan")}), "facts"),
        (("a", "s", "b", {"x": {1, 2}}), "facts"),
    ],
)
def test_a_row_that_cannot_be_stored_is_refused(store: Store, values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}: "):
        store.audit.append(*values)
    assert store.audit.rows() == []


def test_what_is_not_stored_is_not_told(store: Store, change: Callable[..., None]) -> None:
    (one,) = stored(store)
    change("ALTER TABLE audit RENAME TO hidden")
    with pytest.raises(Exception, match="audit"):
        store.reviews.put(one.id, toy_review("good"))
    change("ALTER TABLE hidden RENAME TO audit")
    assert store.inspections.get(one.id).review is None
    assert store.audit.verify().rows == 0


def test_two_processes_append_to_one_chain(store: Store, db: str, tmp_path: Path) -> None:
    writers = [start_writer(db, tmp_path, "audit", "40", name) for name in ("first", "second")]
    for writer in writers:
        go(writer)
    for n in range(20):
        assert n % 5 or store.audit.verify().whole  # also while they write
        store.audit.append("test", "row", "third")
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    report = store.audit.verify()
    assert (report.whole, report.rows) == (True, 100)
    names = [row.by for row in store.audit.rows()]
    assert [names.count(name) for name in ("first", "second", "third")] == [40, 40, 20]
