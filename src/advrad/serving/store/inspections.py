"""The history of inspections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select

from advrad.errors import ConfigError
from advrad.serving.errors import UnknownInspection
from advrad.serving.records import Inspection, Review, ReviewLabel
from advrad.serving.store.audit import append_row
from advrad.serving.store.chain import canonical_json
from advrad.serving.store.database import Database
from advrad.serving.store.filters import InspectionFilter, check_cursor
from advrad.serving.store.ids import IdMaker, is_id
from advrad.serving.store.pictures import Pictures
from advrad.serving.store.tables import inspections, outbox
from advrad.serving.store.texts import check_inspection, check_text, clean_file_name

SEARCHED = 500_000
"""Inspections whose texts are read for one page of a search."""

_PAGE = 500


@dataclass(frozen=True, slots=True)
class InspectionCounts:
    """How many inspections there are.

    Attributes:
        n: Number of inspections.
        n_defective: Number of them that are called defective.
        reviews: Number of reviewed ones by label.
    """

    n: int
    n_defective: int
    reviews: dict[str, int]

    @property
    def n_unreviewed(self) -> int:
        """Number of inspections that nobody has reviewed."""
        return self.n - sum(self.reviews.values())


@dataclass(frozen=True, slots=True)
class InspectionPage:
    """A part of the history.

    Attributes:
        inspections: The inspections, the newest first.
        next: Identity behind which the next page begins; None at the end.
    """

    inspections: list[Inspection]
    next: str | None


class Inspections:
    """The inspections of a database.

    Args:
        database: Open database.
        pictures: Files of the images.
    """

    def __init__(self, database: Database, pictures: Pictures) -> None:
        self._database, self._pictures = database, pictures
        with database.reading() as connection:
            newest = connection.execute(select(func.max(inspections.c.id))).scalar_one()
        self._next_id = IdMaker(newest)

    def new_id(self) -> str:
        """Make the identity of a new inspection; it sorts after all that this process has made or met at its start."""
        return self._next_id()

    def add_many(self, new: Sequence[Inspection], sinks: Sequence[str] = ()) -> list[Inspection]:
        """Store inspections and what is to be delivered of them, all or nothing, in one transaction.

        An inspection whose ``source`` is stored already is not stored again, and is not delivered.

        Args:
            new: Inspections, without reviews; their images should be stored before.
            sinks: Names of the sinks that are to receive them.

        Returns:
            For each inspection the one in the history: itself, or the earlier one of the same source.

        Raises:
            ConfigError: A text or a number of an inspection cannot be stored; see
                :func:`advrad.serving.store.check_request`, which finds this before.
            StoreUnavailable: The database cannot be used now; nothing is stored.
        """
        rows = [_values(inspection) for inspection in new]
        if not rows:
            return []
        for sink in sinks:
            check_text(sink, "sink", 100)
        statement = self._database.insert(inspections).on_conflict_do_nothing(index_elements=["source"])
        with self._database.writing() as connection:
            added = set(connection.execute(statement.returning(inspections.c.id), rows).scalars())
            waiting = [
                {"sink": sink, "inspection_id": one.id, "attempts": 0, "last_error": ""}
                for one in new
                if one.id in added
                for sink in sinks
            ]
            if waiting:
                connection.execute(insert(outbox), waiting)
            sources = [one.source for one in new if one.id not in added]
            query = select(inspections).where(inspections.c.source.in_(sources))
            known = {row.source: inspection_of(row) for row in connection.execute(query)} if sources else {}
        return [
            replace(one, file_name=clean_file_name(one.file_name)) if one.id in added else known[one.source]
            for one in new
        ]

    def get(self, inspection_id: str) -> Inspection:
        """Read one inspection.

        Args:
            inspection_id: Its identity.

        Raises:
            UnknownInspection: There is none.
            StoreUnavailable: The database cannot be used now.
        """
        with self._database.reading() as connection:
            return inspection_of(row_of(connection, inspection_id))

    def by_source(self, source: str) -> Inspection | None:
        """Find the inspection of a source.

        Args:
            source: Identity of what was inspected, see :func:`advrad.serving.store.source_key`.

        Returns:
            The inspection; None if there is none.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        with self._database.reading() as connection:
            row = connection.execute(select(inspections).where(inspections.c.source == source)).one_or_none()
        return None if row is None else inspection_of(row)

    def find(
        self, wanted: InspectionFilter | None = None, limit: int = 100, after: str | None = None
    ) -> list[Inspection]:
        """Find inspections, the newest first: those of one page, see :meth:`page`."""
        return self.page(wanted, limit, after).inspections

    def page(
        self, wanted: InspectionFilter | None = None, limit: int = 100, after: str | None = None
    ) -> InspectionPage:
        """Find inspections, the newest first, and say where to go on.

        A page reads the texts of :data:`SEARCHED` inspections at most, so that no search keeps the database busy for
        long: one for a text may have few inspections, or none, and still a next page.

        Args:
            wanted: Conditions; None for all inspections.
            limit: Largest number, >= 1.
            after: ``next`` of the page before; None for the first page.

        Raises:
            ConfigError: ``after`` is no identity.
            StoreUnavailable: The database cannot be used now.
        """
        id = inspections.c.id
        older = [] if check_cursor(after) is None else [id < after]
        query = select(inspections).where(*_conditions(wanted), *older).order_by(id.desc()).limit(limit)
        with self._database.reading() as connection:
            end = None
            if wanted is not None and wanted.text:
                last = select(id).where(*older).order_by(id.desc()).offset(SEARCHED - 1).limit(1)
                end = connection.execute(last).scalar_one_or_none()
                query = query if end is None else query.where(id >= end)
            found = [inspection_of(row) for row in connection.execute(query)]
        return InspectionPage(found, found[-1].id if len(found) == limit else end)

    def iterate(self, wanted: InspectionFilter | None = None) -> Iterator[Inspection]:
        """Read all inspections that fit, the newest first, page by page: no transaction stays open between pages.

        Args:
            wanted: Conditions; None for all inspections.

        Yields:
            The inspections.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        page = self.page(wanted, _PAGE)
        yield from page.inspections
        while page.next is not None:
            page = self.page(wanted, _PAGE, page.next)
            yield from page.inspections

    def counts(self, wanted: InspectionFilter | None = None) -> InspectionCounts:
        """Count inspections.

        Args:
            wanted: Conditions; None for all inspections.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        table = inspections.c
        labels = [str(label) for label in ReviewLabel]
        parts = [
            func.count().filter(part) for part in (table.defective, *(table.review_label == one for one in labels))
        ]
        with self._database.reading() as connection:
            query = select(func.count(), *parts).where(*_conditions(wanted))
            n, n_defective, *reviews = connection.execute(query).one()
        return InspectionCounts(n, n_defective, dict(zip(labels, reviews, strict=True)))

    def delete(self, inspection_id: str, by: str) -> None:
        """Delete an inspection with its reviews and what was still to be delivered of it, and tell it in the audit log.

        Its image goes with it if no other inspection has the same. One that was stored or sent again within the last
        minute stays until the next run of :meth:`Retention.apply`, because an inspection that is just being stored may
        need it.

        Args:
            inspection_id: Its identity.
            by: Name of the key of the person.

        Raises:
            UnknownInspection: There is none.
            StoreUnavailable: The database cannot be used now.
        """
        with self._database.writing() as connection:
            gone = inspection_of(row_of(connection, inspection_id))
            connection.execute(delete(inspections).where(inspections.c.id == inspection_id))
            same = connection.execute(select(func.count()).where(inspections.c.picture == gone.picture)).scalar_one()
            facts: dict[str, Any] = {"product": gone.product, "at": gone.at.isoformat(), "picture": gone.picture}
            facts |= {"verdict": gone.verdict, "part_id": gone.part_id, "picture_deleted": same == 0}
            append_row(connection, "delete inspection", inspection_id, by, facts)
        if same == 0:
            self._pictures.remove(gone.picture)


def row_of(connection: Connection, inspection_id: str, *, lock: bool = False) -> Row[Any]:
    """Read the row of an inspection.

    Args:
        connection: Connection inside a transaction.
        inspection_id: Identity of the inspection.
        lock: Whether to keep others from changing it until the transaction ends.

    Raises:
        UnknownInspection: There is none.
    """
    row = None
    if is_id(inspection_id):
        query = select(inspections).where(inspections.c.id == inspection_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownInspection(
            f"inspection {inspection_id[:40]!a}: is not in the history", "check its identity; it may be deleted"
        )
    return row


def inspection_of(row: Row[Any]) -> Inspection:
    """Make an inspection from a row of the table.

    Args:
        row: Row with all columns of the table.
    """
    values = {name: getattr(row, name) for name in _NAMES}
    return Inspection(**values, review=review_of(row))


def review_of(row: Row[Any]) -> Review | None:
    """Make the review of a row of inspections; None if there is none.

    Args:
        row: Row with all columns of the table.
    """
    if row.review_label is None:
        return None
    label = ReviewLabel(row.review_label)
    return Review(label, row.review_note, row.review_by, row.review_at, row.review_chosen)


#: Fields of an inspection that are columns of the same name.
_NAMES = tuple(name for name in Inspection.__dataclass_fields__ if name != "review")


def _values(inspection: Inspection) -> dict[str, Any]:
    """The row of an inspection.

    Raises:
        ConfigError: It cannot be stored.
    """
    check_inspection(inspection)
    if not is_id(inspection.id) or inspection.review is not None:
        raise ConfigError("needs an identity of new_id() and no review", option="inspection")
    try:
        canonical_json(inspection.details)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot be written as JSON ({error}); give plain finite values", option="details") from None
    values = {name: getattr(inspection, name) for name in _NAMES}
    lot = sha256(inspection.id.encode("ascii")).hexdigest()[:16]
    return values | {"lot": lot, "file_name": clean_file_name(inspection.file_name), "picture_deleted": False}


def _conditions(wanted: InspectionFilter | None) -> list[ColumnElement[bool]]:
    return [] if wanted is None else wanted.conditions()
