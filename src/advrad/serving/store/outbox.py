"""What is still to be delivered to the sinks. A row is made in the transaction of its inspection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import delete, func, or_, select, update

from advrad.serving.records import OutboxRow
from advrad.serving.store.database import Database
from advrad.serving.store.inspections import inspection_of
from advrad.serving.store.tables import inspections, outbox

LONGEST_WAIT = timedelta(hours=1)
"""Longest time between two attempts. A row that is to wait longer was written before the clock was set back: due."""

_ERROR_CHARACTERS = 500


class Outbox:
    """The rows that wait for their delivery. A row leaves only when its sink has it: at least once, across restarts.

    Args:
        database: Open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, sink: str, now: datetime, limit: int = 100) -> list[OutboxRow]:
        """Read the rows of a sink that should be delivered now, the oldest first.

        Where the oldest was sent with others before, these are its batch, and no other row; see :meth:`together`.

        Args:
            sink: Name of the sink.
            now: Time, in UTC.
            limit: Largest number.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        table = outbox.c
        time_has_come = or_(table.due_at.is_(None), table.due_at <= now, table.due_at > now + LONGEST_WAIT)
        query = (
            select(table.id.label("row_id"), table.attempts, table.last_error, table.batch, inspections)
            .join(inspections, table.inspection_id == inspections.c.id)
            .where(table.sink == sink, time_has_come)
            .order_by(table.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            rows = [
                OutboxRow(row.row_id, sink, inspection_of(row), row.attempts, row.last_error or None, row.batch)
                for row in connection.execute(query)
            ]
        return list(takewhile(lambda row: row.batch == rows[0].batch, rows))

    def together(self, ids: Sequence[int]) -> None:
        """Note that rows are sent together, so that they are read together the next time.

        Args:
            ids: Identities of the rows; at least one.

        Raises:
            StoreUnavailable: The database cannot be used now; nothing is noted.
        """
        with self._database.writing() as connection:
            connection.execute(update(outbox).where(outbox.c.id.in_(ids)).values(batch=min(ids)))

    def delivered(self, ids: Sequence[int]) -> None:
        """Remove rows that their sink has received.

        Args:
            ids: Identities of the rows.

        Raises:
            StoreUnavailable: The database cannot be used now; the rows stay, and will be delivered again.
        """
        if ids:
            with self._database.writing() as connection:
                connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))

    def failed(self, row_id: int, error: str, retry_at: datetime) -> None:
        """Note a failed attempt.

        Args:
            row_id: Identity of the row.
            error: Why it failed; kept shortened.
            retry_at: Time of the next attempt, in UTC, at most :data:`LONGEST_WAIT` ahead.

        Raises:
            StoreUnavailable: The database cannot be used now; the row stays due.
        """
        shown = error[:_ERROR_CHARACTERS].replace("\0", "�").encode("utf-8", "replace").decode("utf-8")
        values = {"attempts": outbox.c.attempts + 1, "last_error": shown, "due_at": retry_at}
        with self._database.writing() as connection:
            connection.execute(update(outbox).where(outbox.c.id == row_id).values(values))

    def pending(self, sink: str) -> int:
        """Count the rows of a sink.

        Args:
            sink: Name of the sink.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        return self.waiting().get(sink, 0)

    def waiting(self) -> dict[str, int]:
        """Count the rows of each sink that has any, also of sinks that are no longer configured.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        query = select(outbox.c.sink, func.count()).group_by(outbox.c.sink)
        with self._database.reading() as connection:
            return {sink: n for sink, n in connection.execute(query)}
