"""One database, SQLite or PostgreSQL: how it is opened, and the transactions that all parts of the store run in."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from advrad.errors import ConfigError, OutputError
from advrad.serving.errors import StoreUnavailable
from advrad.utils.files import check_folder, explain, make_folder

FILE_NAME = "history.sqlite"
"""Name of the SQLite file in the data folder."""

BUSY_S = 5.0
"""Seconds that a transaction waits for a lock, and a connection for its server."""

_RETRY_S = 0.01
_FORMS = "write sqlite:////FOLDER/FILE or postgresql://USER@HOST/NAME"
_SQLITE_START = b"SQLite format 3\0"
_LOCKED = (f"another program has kept it locked for {BUSY_S:g} seconds", "end that program, or try again")
#: Parts of the messages of SQLite and PostgreSQL, what they mean and what to do.
_MEANINGS = {
    "database is locked": _LOCKED,
    "lock timeout": _LOCKED,
    "disk is full": ("the disk is full", "free some space"),
    "No space left": ("the disk of the server is full", "free some space there"),
    "disk I/O error": ("the disk cannot be read or written", "check it, and whether it is full"),
    "readonly database": ("it may not be written to", "change its permissions, and those of its folder"),
    "unable to open": ("the file cannot be opened", "check its permissions, and those of its folder"),
    "malformed": ("the file is damaged", "restore it from a backup"),
    "not a database": ("the file is no SQLite database", "name another file"),
}


class Database:
    """An open database. All methods are thread-safe.

    Args:
        url: What is opened, see :func:`database_url`.
    """

    def __init__(self, url: URL) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.name = url.database or "" if self.is_sqlite else url.render_as_string(hide_password=True)
        self._engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._file: tuple[int, int] | None = None

    @classmethod
    def open(cls, url: URL) -> Self:
        """Connect to a database, which must exist if it is not SQLite.

        Args:
            url: What to open.

        Raises:
            ConfigError: The driver is missing.
            OutputError: The file is no database, cannot be written, or the server refuses.
        """
        if url.get_backend_name() == "sqlite":
            # Absolute: a connection that is opened later must mean the same file, wherever the program is by then.
            path = Path(url.database or "").absolute()
            url = url.set(database=str(path))
            _check_file(path)
        database = cls(url)
        try:
            with database.reading() as connection:
                _check_server(connection, database)
            database._file = database._identity()
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run statements that only read, in one transaction that sees the database at one moment.

        Yields:
            The connection.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        with self._explained(), self._engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Run statements in one transaction, which is stored as a whole when the block ends without an error.

        SQLite takes its one lock for writing at the start, so that the block cannot fail half-way because another
        process writes.

        Yields:
            The connection.

        Raises:
            StoreUnavailable: The database cannot be used now; nothing is stored.
        """
        if self._file is not None and self._identity() != self._file:
            raise StoreUnavailable(
                f"{self.name}: the file was deleted or replaced while it was open", "put it back, or restart advrad"
            )
        writer = self._engine.execution_options(advrad_writes=True)
        with self._explained(), writer.begin() as connection:
            yield connection

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Begin an insert statement that can say what happens to a row that exists.

        Args:
            table: Table to insert into.
        """
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of a database that cannot be used now into one line."""
        try:
            yield
        except PoolTimeout:
            raise StoreUnavailable(f"{self.name}: too many requests wait for it", "try again later") from None
        except DBAPIError as error:
            if not _is_outage(error):
                raise
            problem, fix = _meaning(error)
            raise StoreUnavailable(f"{self.name}: {problem}", fix) from error

    def _identity(self) -> tuple[int, int] | None:
        """Identity of the SQLite file; a file that is deleted while open would take rows and lose them."""
        if not self.is_sqlite:
            return None
        try:
            found = os.stat(self.name)
        except OSError:
            return (0, 0)
        return (found.st_dev, found.st_ino)


def database_url(db: str | None, folder: Path) -> URL:
    """Read the URL of a database.

    Args:
        db: URL of SQLite or PostgreSQL; None for a SQLite file in the data folder.
        folder: Data folder.

    Returns:
        The URL, with its driver.

    Raises:
        ConfigError: It is no URL, or one of another database.

    Example:
        >>> database_url("postgresql://advrad@db/line", Path("data")).drivername
        'postgresql+psycopg'
    """
    if db is None:
        return URL.create("sqlite", database=str(folder / FILE_NAME))
    try:
        url = make_url(db)
    except (ArgumentError, ValueError):
        raise ConfigError(f"is no URL of a database; {_FORMS}", option="db") from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        if not url.database or url.database == ":memory:" or url.query:
            raise ConfigError("names no file; write sqlite:////FOLDER/FILE", option="db")
        return url.set(drivername="sqlite")
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError(f"'{backend}' is no database that advrad knows; {_FORMS}", option="db")


def _sqlite_engine(url: URL) -> Engine:
    path = Path(url.database or "").absolute()
    try:
        path.touch()
    except OSError as error:
        raise OutputError(f"{path}: cannot be made: {explain(error)}") from None
    # From here on a file that is missing is an error: SQLite would make an empty one, and stay with it.
    url = url.set(database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(url, connect_args={"timeout": BUSY_S}, pool_timeout=2 * BUSY_S, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # this module begins transactions itself
        connection.execute("PRAGMA foreign_keys=ON")
        _keep_a_log(connection)
        # FULL, not NORMAL: with WAL, NORMAL may lose the last transactions in a power cut, and a verdict that was
        # answered must not vanish. It costs one flush of the disk for each transaction, which a group of inspections
        # shares.
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("advrad_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Let a SQLite file write ahead into a log, so that readers and a writer do not wait for each other.

    SQLite does not wait by itself where several connections change the mode of a new file at once: all but one are
    refused at once, so the wait is here.
    """
    end = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # The low byte is the kind of the error, the others say more: SQLITE_BUSY_RECOVERY is SQLITE_BUSY, too.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(_RETRY_S)


def _postgresql_engine(url: URL) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError("PostgreSQL needs its driver: pip install 'advrad[serve]'", option="db") from None
    given = url.query.get("options", "")
    options = " ".join([given] if isinstance(given, str) else given)
    milliseconds = int(1000 * BUSY_S)
    arguments = {
        "connect_timeout": int(BUSY_S),
        "client_encoding": "utf8",
        # A server that vanished without a word is noticed after this time, not after many minutes.
        "tcp_user_timeout": 2 * milliseconds,
        "keepalives_idle": 30,
        "options": f"{options} -c lock_timeout={milliseconds} -c timezone=UTC".strip(),
    }
    # The pool asks a connection whether it lives before it is used: a server that was restarted is met again at once.
    return create_engine(url, connect_args=arguments, pool_pre_ping=True, pool_timeout=2 * BUSY_S, hide_parameters=True)


def _check_file(path: Path) -> None:
    """Check that a SQLite file can be opened or made; its folder is made.

    Raises:
        OutputError: It cannot.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file for the database")
    if not path.parent.is_dir():
        check_folder(path.parent)
        make_folder(path.parent, private=True)
    # The folder too: SQLite writes files beside the database.
    for place in (path, path.parent):
        if place.exists() and not os.access(place, os.R_OK | os.W_OK):
            raise OutputError(f"{place}: may not be read and written; change its permissions")
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(_SQLITE_START))
    if start and start != _SQLITE_START:
        raise OutputError(f"{path}: is no SQLite database; name another file")


def _check_server(connection: Connection, database: Database) -> None:
    """Check what the rest relies on.

    Raises:
        OutputError: The disk or the server cannot do it.
    """
    if database.is_sqlite:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() != "wal":
            raise OutputError(f"{database.name}: its disk cannot hold a database in use; choose a local disk")
    elif connection.exec_driver_sql("SHOW server_encoding").scalar_one() != "UTF8":
        raise OutputError(f"{database.name}: its encoding is not UTF8; create the database with ENCODING 'UTF8'")


def _is_outage(error: DBAPIError) -> bool:
    """Whether the database is at fault, and not a statement."""
    if isinstance(error, OperationalError | InterfaceError | InternalError) or error.connection_invalidated:
        return True
    # A damaged SQLite file has no class of its own, and missing permission in PostgreSQL only a code.
    return type(error) is DatabaseError or getattr(error.orig, "sqlstate", None) == "42501"


def _meaning(error: DBAPIError) -> tuple[str, str]:
    """What is wrong with the database, and what to do."""
    text = " ".join(str(error.orig).split())
    for part, meaning in _MEANINGS.items():
        if part in text:
            return meaning
    return text.rstrip("."), "check the database, then try again"
