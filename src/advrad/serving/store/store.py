"""The store as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from sqlalchemy import select

from advrad.serving.store.audit import AuditLog
from advrad.serving.store.database import Database, database_url
from advrad.serving.store.drift_state import DriftStates
from advrad.serving.store.inspections import Inspections
from advrad.serving.store.outbox import Outbox
from advrad.serving.store.pictures import Pictures
from advrad.serving.store.retention import Retention
from advrad.serving.store.reviews import Reviews
from advrad.serving.store.schema import bring_up
from advrad.serving.store.tables import audit_end
from advrad.serving.store.thresholds import Thresholds
from advrad.utils.files import make_folder

PICTURES = "pictures"
"""Name of the folder of images inside the data folder."""


class Store:
    """An open database with its folder of images; :meth:`open` makes one.

    Args:
        database: Open database with the tables of this version.
        pictures: Files of the images.

    Attributes:
        inspections: The history.
        reviews: What people said.
        thresholds: Versions of thresholds.
        audit: Who did what.
        outbox: What is still to be delivered.
        drift: What the drift monitor remembers.
        pictures: Files of the images.
        retention: Removal of old images.

    Example:
        >>> with Store.open(None, Path("data")) as store:
        ...     store.inspections.find()
        []
    """

    def __init__(self, database: Database, pictures: Pictures) -> None:
        self._database = database
        self.pictures = pictures
        self.inspections = Inspections(database, pictures)
        self.reviews = Reviews(database)
        self.thresholds = Thresholds(database)
        self.audit = AuditLog(database)
        self.outbox = Outbox(database)
        self.drift = DriftStates(database)
        self.retention = Retention(database, pictures)

    @classmethod
    def open(cls, db: str | None, data: Path) -> Self:
        """Open the store: a new database is made, an old one is brought up to this version.

        Args:
            db: URL of SQLite or PostgreSQL; None for a SQLite file in the data folder.
            data: Data folder, for the images. One that is made can be read by this user alone.

        Raises:
            ConfigError: ``db`` is no URL of a known database, or its driver is missing.
            OutputError: The folder or the file cannot be written, the file is no database, or it is of another program
                or a newer version.
            StoreUnavailable: The database cannot be used now.
        """
        url = database_url(db, data)
        make_folder(data, private=True)
        pictures = Pictures(data / PICTURES)
        database = Database.open(url)
        try:
            bring_up(database)
            return cls(database, pictures)
        except BaseException:
            database.close()
            raise

    def ping(self) -> None:
        """Check that the database answers.

        Raises:
            StoreUnavailable: It does not.
        """
        with self._database.reading() as connection:
            connection.execute(select(audit_end.c.n)).all()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
