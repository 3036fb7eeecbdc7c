"""The audit log: who did what and when, in rows that are only ever appended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from advrad.errors import ConfigError
from advrad.serving.store.chain import START, AuditReport, AuditRow, canonical_json, check_chain, row_hash
from advrad.serving.store.database import Database
from advrad.serving.store.tables import audit, audit_end
from advrad.serving.store.texts import NAME_CHARACTERS, SUBJECT_CHARACTERS, check_digest, check_text

_PAGE = 1000


class AuditLog:
    """The audit log of a database.

    Args:
        database: Open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, action: str, subject: str, by: str, facts: dict[str, Any] | None = None) -> AuditRow:
        """Append a row in a transaction of its own, for what is not stored in the database.

        Args:
            action: What was done, such as ``sign in``.
            subject: What it was done to.
            by: Name of the key of the person; ``advrad`` for what the program does by itself.
            facts: Further facts as JSON values.

        Returns:
            The row.

        Raises:
            ConfigError: A text is too long or cannot be stored.
            StoreUnavailable: The database cannot be used now.
        """
        with self._database.writing() as connection:
            return append_row(connection, action, subject, by, facts)

    def rows(self, after: int = 0, limit: int | None = None, newest_first: bool = False) -> list[AuditRow]:
        """Read rows.

        Args:
            after: Number of a row; those behind it in the order are read. 0 begins at the start.
            limit: Largest number of rows; None for all.
            newest_first: Whether the newest row comes first; ``after`` then means the rows before it.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        query = select(audit).order_by(audit.c.n.desc() if newest_first else audit.c.n).limit(limit)
        if after or not newest_first:
            query = query.where(audit.c.n < after if newest_first else audit.c.n > after)
        with self._database.reading() as connection:
            return [_row(row) for row in connection.execute(query)]

    def verify(self, head: str | None = None) -> AuditReport:
        """Check the chain of all rows, see :func:`advrad.serving.store.chain.check_chain` for what it can detect.

        Args:
            head: Hash of a row, written down elsewhere earlier; None for none.

        Returns:
            What was found.

        Raises:
            ConfigError: ``head`` is no hash.
            StoreUnavailable: The database cannot be used now.
        """
        if head is not None:
            check_digest(head, "head")
        with self._database.reading() as connection:
            end = connection.execute(select(audit_end.c.n, audit_end.c.hash)).one_or_none()
            return check_chain(_pages(connection), None if end is None else (end.n, end.hash), head)


def append_row(
    connection: Connection, action: str, subject: str, by: str, facts: dict[str, Any] | None = None
) -> AuditRow:
    """Append a row to the audit log in the transaction of what it tells.

    Whoever appends holds the end of the log until the transaction ends, so that rows of two processes do not mix.

    Args:
        connection: Connection inside a writing transaction.
        action: What was done.
        subject: What it was done to.
        by: Name of the key of the person.
        facts: Further facts as JSON values.

    Returns:
        The row.

    Raises:
        ConfigError: A text is too long or cannot be stored.
    """
    check_text(action, "action", NAME_CHARACTERS)
    check_text(subject, "subject", SUBJECT_CHARACTERS)
    check_text(by, "by", NAME_CHARACTERS)
    try:
        facts_json = canonical_json(facts or {})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot be written as JSON ({error}); give plain finite values", option="facts") from None
    n, previous = lock_end(connection)
    n, at = n + 1, datetime.now(UTC)
    row = AuditRow(
        n, at, action, subject, by, facts_json, previous, row_hash(previous, n, at, action, subject, by, facts_json)
    )
    values = {"n": n, "at": at, "action": action, "subject": subject, "by": by, "facts": facts_json}
    connection.execute(insert(audit).values(values | {"previous": previous, "hash": row.hash}))
    connection.execute(update(audit_end).values(n=n, hash=row.hash))
    return row


def lock_end(connection: Connection) -> tuple[int, str]:
    """Take the lock of all that is told in the audit log, until the transaction ends.

    Args:
        connection: Connection inside a writing transaction.

    Returns:
        Number and hash of the last row.
    """
    end = connection.execute(select(audit_end.c.n, audit_end.c.hash).with_for_update()).one_or_none()
    if end is None:
        # The note was removed by somebody. The log goes on from the last row, and the check tells what is missing.
        last = connection.execute(select(audit.c.n, audit.c.hash).order_by(audit.c.n.desc()).limit(1)).one_or_none()
        return (0, START) if last is None else (last.n, last.hash)
    return end.n, end.hash


def _pages(connection: Connection) -> Iterator[AuditRow]:
    """All rows in order, read page by page."""
    query = select(audit).order_by(audit.c.n).limit(_PAGE)
    rows = connection.execute(query).all()
    while rows:
        yield from map(_row, rows)
        rows = connection.execute(query.where(audit.c.n > rows[-1].n)).all()


def _row(row: Row[Any]) -> AuditRow:
    return AuditRow(row.n, row.at, row.action, row.subject, row.by, row.facts, row.previous, row.hash)
