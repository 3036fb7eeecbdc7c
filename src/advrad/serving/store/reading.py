"""Reading a store without the service: nothing is made and nothing is brought up to a newer version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from advrad.errors import ConfigError, OutputError
from advrad.serving.store.audit import AuditLog
from advrad.serving.store.database import FILE_NAME, Database, database_url
from advrad.serving.store.schema import check_version


@contextmanager
def audit_log(place: str) -> Iterator[AuditLog]:
    """Open the audit log of a store.

    Args:
        place: Data folder, SQLite file, or URL of a database.

    Yields:
        The audit log.

    Raises:
        ConfigError: The URL is none.
        OutputError: There is no database, or it is of another program or a newer version.
        StoreUnavailable: The database cannot be used now.
    """
    database = Database.open(_url(place))
    try:
        check_version(database)
        yield AuditLog(database)
    finally:
        database.close()


def _url(place: str) -> URL:
    if "://" in place:
        try:
            url = database_url(place, Path())
        except ConfigError as error:
            raise ConfigError(f"DB: {error.message}") from None
        if not url.drivername.startswith("sqlite"):
            return url
        place = str(url.database)
    path = Path(place)
    if path.is_dir():
        path /= FILE_NAME
    if not path.exists():
        raise OutputError(f"{path}: there is no database; name the data folder of 'advrad serve'")
    return URL.create("sqlite", database=str(path))
