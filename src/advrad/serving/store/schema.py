"""The version of a database: made if it is new, brought up if it is old, refused if it is newer."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from advrad.errors import OutputError
from advrad.serving.store.database import Database
from advrad.serving.store.tables import metadata

MIGRATIONS = Path(__file__).parent / "migrations"
"""Folder of the steps."""

VERSION_TABLE = "advrad_version"
"""Table that holds the version."""

# Any number, the same in every process: PostgreSQL's name of the lock.
_LOCK = 7_361_093_448
# Alembic keeps its context in a global variable.
_ONE_AT_A_TIME = threading.Lock()


def bring_up(database: Database) -> None:
    """Bring the tables to the version of this program, in one transaction that only one process runs at a time.

    Args:
        database: Database to bring up.

    Raises:
        OutputError: The database is of a newer version, or of another program.
        StoreUnavailable: The database cannot be used now.
    """
    steps = ScriptDirectory(str(MIGRATIONS))
    with _ONE_AT_A_TIME, database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        current = _version(database, connection, steps)
        context = _context(connection)
        with Operations.context(context):
            for step in reversed(list(steps.iterate_revisions("head", current or "base"))):
                step.module.upgrade()
        context.stamp(steps, "head")


def check_version(database: Database) -> None:
    """Check that a database is one of advrad that this program can read, without changing it.

    Args:
        database: Database to check.

    Raises:
        OutputError: It is of a newer version, of another program, or empty.
        StoreUnavailable: The database cannot be used now.
    """
    with database.reading() as connection:
        if _version(database, connection, ScriptDirectory(str(MIGRATIONS))) is None:
            raise OutputError(f"{database.name}: holds no history of advrad; name the database of 'advrad serve'")


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def _version(database: Database, connection: Connection, steps: ScriptDirectory) -> str | None:
    """The version of a database; None if it has no tables.

    Raises:
        OutputError: It is of a newer version, or of another program.
    """
    names = set(inspect(connection).get_table_names())
    if VERSION_TABLE not in names:
        # PostgreSQL's database may be shared; a SQLite file is ours alone.
        foreign = names if database.is_sqlite else names & metadata.tables.keys()
        if foreign:
            raise OutputError(f"{database.name}: holds the tables of another program; name another database")
        return None
    current = _context(connection).get_current_revision()
    if current is not None and current not in {step.revision for step in steps.walk_revisions()}:
        newest = steps.get_current_head()
        raise OutputError(
            f"{database.name}: was written by a newer advrad (version {current}, this one knows up to {newest}); "
            "install that advrad, or name another database"
        )
    return current
