"""Versions of a database: a new one is made, an old one is brought up, a newer one is refused."""

from __future__ import annotations

import functools
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres_server import PostgresServer
from sqlalchemy import create_engine, inspect, text
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.errors import OutputError
from advrad.serving.store import Store, schema
from advrad.serving.store.database import database_url
from advrad.serving.store.reading import audit_log
from advrad.serving.store.tables import metadata

NEXT_STEP = '''
"""A step of a later version."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{head}"


def upgrade() -> None:
    op.add_column("inspections", sa.Column("colour", sa.Text()))
    {more}
'''


HEAD = ScriptDirectory(str(schema.MIGRATIONS)).get_current_head()


@pytest.fixture
def later(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes the folder of steps of a later version."""

    def make(more: str = "pass") -> Path:
        folder = tmp_path / "migrations"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "v9999_later.py").write_text(NEXT_STEP.format(more=more, head=HEAD))
        return folder

    return make


def columns(db: str, table: str = "inspections") -> set[str]:
    engine = create_engine(database_url(db, Path()))
    try:
        return {column["name"] for column in inspect(engine).get_columns(table)}
    finally:
        engine.dispose()


def test_the_steps_make_the_tables_of_this_version(db: str, tmp_path: Path) -> None:
    Store.open(db, tmp_path).close()
    engine = create_engine(database_url(db, tmp_path))

    def ours(thing: object, name: str | None, kind: str, *other: object) -> bool:
        return (kind, name) != ("table", schema.VERSION_TABLE)

    with engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True, "include_object": ours}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        # What a type of our own adds is not a difference of the tables.
        made = [one for one in differences if not (isinstance(one, list) and one[0][0] == "modify_type")]
        types = [one[0] for one in differences if isinstance(one, list) and one[0][0] == "modify_type"]
    engine.dispose()
    assert made == []
    assert [one for one in types if not hasattr(one[6], "impl")] == []


def test_an_old_database_is_brought_up_and_keeps_what_it_holds(
    db: str, tmp_path: Path, later: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(db, tmp_path) as store:
        (one,) = stored(store)
        store.reviews.put(one.id, toy_review())
    assert "colour" not in columns(db)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", later())
        with Store.open(db, tmp_path) as store:
            assert store.inspections.get(one.id).review == toy_review()
            assert store.audit.verify().whole
        assert "colour" in columns(db)
        Store.open(db, tmp_path).close()


def test_a_database_of_the_first_version_is_brought_up_with_what_waits(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", "v0002*"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", folder)
        with Store.open(db, tmp_path) as store:
            (one,) = store.inspections.add_many([toy_inspection(store)], ["hook"])
    assert "batch" not in columns(db, "outbox")
    with Store.open(db, tmp_path) as store:
        (row,) = store.outbox.due("hook", AT)
        assert (row.inspection, row.batch) == (one, None)
        store.outbox.together([row.id])
        assert store.outbox.due("hook", AT)[0].batch == row.id


def test_a_newer_database_is_refused_and_not_touched(
    db: str, tmp_path: Path, later: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", later())
        Store.open(db, tmp_path).close()
    with pytest.raises(OutputError) as error:
        Store.open(db, tmp_path)
    message = str(error.value)
    wanted = f"was written by a newer advrad (version 9999, this one knows up to {HEAD}); install that advrad"
    assert wanted in message
    assert "\n" not in message
    with pytest.raises(OutputError, match="newer advrad"), audit_log(db):
        pass
    assert "colour" in columns(db)


def test_a_step_that_fails_leaves_the_old_version(
    db: str, tmp_path: Path, later: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(db, tmp_path) as store:
        (one,) = stored(store)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", later("raise RuntimeError('interrupted')"))
        with pytest.raises(RuntimeError, match="interrupted"):
            Store.open(db, tmp_path)
    assert "colour" not in columns(db)
    with Store.open(db, tmp_path) as store:
        assert store.inspections.find() == [one]


def test_several_that_open_a_new_database_at_once_make_it_once(db: str, tmp_path: Path) -> None:
    ready, failures = threading.Barrier(4), []

    def open_it() -> None:
        ready.wait()
        try:
            with Store.open(db, tmp_path) as store:
                store.audit.append("start", "x", "ann")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Store.open(db, tmp_path) as store:
        assert store.audit.verify().rows == 4


def test_a_new_file_that_is_locked_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, other.rollback)
    release.start()
    try:
        with Store.open(f"sqlite:///{file}", tmp_path) as store:
            assert store.inspections.find() == []
    finally:
        release.join()
        other.close()


@pytest.mark.parametrize(
    ("refusals", "code"), [(1, sqlite3.SQLITE_BUSY), (3, sqlite3.SQLITE_BUSY), (1, sqlite3.SQLITE_BUSY_RECOVERY)]
)
def test_a_change_of_mode_that_is_refused_at_once_is_tried_again(
    refusals: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [refusals]

    class Refusing(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if "journal_mode=WAL" in sql and left[0]:
                left[0] -= 1
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = code
                raise error
            return super().execute(sql, *parameters)

    connect = sqlite3.dbapi2.connect
    monkeypatch.setattr(sqlite3.dbapi2, "connect", functools.partial(connect, factory=Refusing))
    with Store.open(None, tmp_path) as store:
        assert left == [0]
        assert store.inspections.find() == []


def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path, postgres: PostgresServer) -> None:
    file = tmp_path / "other.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE bookmarks (name TEXT)")
    connection.close()
    with pytest.raises(OutputError, match="holds the tables of another program; name another database"):
        Store.open(f"sqlite:///{file}", tmp_path)
    shared = postgres.make_schema()
    engine = create_engine(database_url(shared, tmp_path))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE bookmarks (name TEXT)"))
    Store.open(shared, tmp_path).close()
    taken = postgres.make_schema()
    other = create_engine(database_url(taken, tmp_path))
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE audit (name TEXT)"))
    with pytest.raises(OutputError, match="holds the tables of another program"):
        Store.open(taken, tmp_path)
    assert inspect(other).get_table_names() == ["audit"]
    engine.dispose()
    other.dispose()
