"""What people said about inspections."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, func, insert, or_, select, update

from advrad.errors import ConfigError
from advrad.serving.errors import ReviewChanged
from advrad.serving.records import Inspection, Review, ReviewLabel
from advrad.serving.store.audit import append_row
from advrad.serving.store.database import Database
from advrad.serving.store.inspections import inspection_of, review_of, row_of
from advrad.serving.store.tables import earlier_reviews, inspections
from advrad.serving.store.texts import NAME_CHARACTERS, NOTE_CHARACTERS, check_text


class Unchecked(Enum):
    """The type of :data:`UNCHECKED`."""

    UNCHECKED = "unchecked"


UNCHECKED: Final = Unchecked.UNCHECKED
"""Whoever reviews does not say which review was shown."""

QueueOrder = Literal["closest", "random"]
"""Closest to the threshold first; or a random order that is the same for everyone and that nobody can steer."""

QUEUE_DEPTH = 10_000
"""Number of inspections among which the closest are searched, so that a long history costs nothing."""


class Reviews:
    """The reviews of a database. Each change is told in the audit log, in the same transaction.

    Args:
        database: Open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, inspection_id: str, review: Review, seen: datetime | Unchecked | None = UNCHECKED) -> Inspection:
        """Set the review of an inspection; the one before can be brought back by :meth:`undo`.

        The same label, note and choice by the same person again changes nothing, so that a request may be repeated.

        Args:
            inspection_id: Identity of the inspection.
            review: What the person says.
            seen: Time of the review that the person saw, None if there was none; :data:`UNCHECKED` for no check.

        Returns:
            The inspection with its review.

        Raises:
            ConfigError: The note is too long or cannot be stored.
            ReviewChanged: Another review than the one seen is stored.
            UnknownInspection: There is no such inspection.
            StoreUnavailable: The database cannot be used now.
        """
        check_text(review.note, "note", NOTE_CHARACTERS)
        check_text(review.by, "by", NAME_CHARACTERS)
        if review.chosen not in ("picked", "random"):
            raise ConfigError("is unknown; choose picked or random", option="chosen")
        with self._database.writing() as connection:
            row = row_of(connection, inspection_id, lock=True)
            before = review_of(row)
            if before is not None and _said(before) == _said(review):
                return inspection_of(row)
            if not isinstance(seen, Unchecked) and seen != (None if before is None else before.at):
                raise ReviewChanged(
                    f"inspection {inspection_id}: somebody has reviewed it since it was shown", "look at it again"
                )
            if before is not None:
                _push(connection, inspection_id, before)
            facts = {"label": str(review.label), "note": review.note, "chosen": review.chosen}
            return _set(connection, inspection_id, review, "review", review.by, facts, before)

    def undo(self, inspection_id: str, by: str) -> Inspection:
        """Take the last review of an inspection back: the one before holds again, or none.

        Args:
            inspection_id: Identity of the inspection.
            by: Name of the key of the person.

        Returns:
            The inspection with the review that holds now; without a review, nothing was changed.

        Raises:
            UnknownInspection: There is no such inspection.
            StoreUnavailable: The database cannot be used now.
        """
        with self._database.writing() as connection:
            row = row_of(connection, inspection_id, lock=True)
            before = review_of(row)
            if before is None:
                return inspection_of(row)
            review = _pop(connection, inspection_id)
            facts = {"label": None if review is None else str(review.label)}
            return _set(connection, inspection_id, review, "undo review", by, facts, before)

    def queue(
        self, product: str, limit: int = 50, order: QueueOrder = "closest", model: str | None = None
    ) -> list[Inspection]:
        """Find the inspections that a person should look at next, among those whose image is still kept.

        Those that nobody has reviewed come first, then those reviewed as unsure. An image without a score is the least
        sure of all. The distance of a score to its threshold is divided by the mean distance of its model's scores, so
        that models with scores of another size compare. The closest ones are those of the newest :data:`QUEUE_DEPTH`.

        Args:
            product: Name of the product.
            limit: Largest number.
            order: Order; ``random`` has the unreviewed ones alone.
            model: Identity of the model; None for all.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        table = inspections.c
        mine = [table.product == product, table.picture_deleted.is_(False)]
        if model is not None:
            mine.append(table.model == model)
        unreviewed, unsure = table.review_label.is_(None), table.review_label == ReviewLabel.UNSURE
        with self._database.reading() as connection:
            if order == "random":
                query = select(inspections).where(*mine, unreviewed).order_by(table.lot, table.id).limit(limit)
                return [inspection_of(row) for row in connection.execute(query)]
            picked: list[str] = []
            for state in (unreviewed, unsure):
                picked += connection.execute(_closest(and_(*mine, state), limit - len(picked))).scalars()
            rows = {row.id: row for row in connection.execute(select(inspections).where(table.id.in_(picked)))}
        return [inspection_of(rows[identity]) for identity in picked]

    def drawn(self, product: str, model: str) -> list[Inspection]:
        """Read the reviewed part of the random order: all inspections before the first one that nobody has reviewed.

        Each inspection is in it or not whatever it shows, so these are a random sample of all inspections of the model
        whose images are still kept. It does not matter in which queue they were reviewed. Inspections after the last
        review do not count, so that a line that runs on does not undo the sample. Inspections before the newest one
        whose image was deleted are left out: of those, the reviewed ones alone remain.

        Args:
            product: Name of the product.
            model: Identity of the model.

        Returns:
            Reviewed inspections, in the random order.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        table = inspections.c
        gone = select(func.max(table.id)).where(
            table.product == product, table.model == model, table.picture_deleted.is_(True)
        )
        with self._database.reading() as connection:
            mine = [table.product == product, table.model == model]
            last = connection.execute(select(func.max(table.review_at)).where(*mine)).scalar_one()
            if last is None:
                return []
            mine.append(table.at <= last)
            if (newest := connection.execute(gone).scalar_one()) is not None:
                mine.append(table.id > newest)
            ordered = select(table.lot, table.id).where(*mine, table.review_label.is_(None))
            first = connection.execute(ordered.order_by(table.lot, table.id).limit(1)).one_or_none()
            if first is not None:
                same = and_(table.lot == first.lot, table.id < first.id)
                mine.append(or_(table.lot < first.lot, same))
            query = select(inspections).where(*mine).order_by(table.lot, table.id)
            return [inspection_of(row) for row in connection.execute(query)]

    def scores(self, product: str, model: str, label: ReviewLabel, chosen: str | None = None) -> dict[str, float]:
        """Read the scores of reviewed images. An image that was inspected several times counts once, with its newest.

        Args:
            product: Name of the product.
            model: Identity of the model.
            label: What a person said.
            chosen: How the images came to be reviewed; None for any way.

        Returns:
            Scores by the SHA-256 of the image.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        table = inspections.c
        wanted = and_(
            table.product == product, table.model == model, table.review_label == label, table.score.is_not(None)
        )
        if chosen is not None:
            wanted = and_(wanted, table.review_chosen == chosen)
        with self._database.reading() as connection:
            rows = connection.execute(select(table.picture, table.score).where(wanted).order_by(table.id))
            return {picture: score for picture, score in rows}


def _closest(wanted: ColumnElement[bool], limit: int) -> Select[Any]:
    """A statement for the identities of the inspections that are closest to their threshold, the closest first."""
    table = inspections.c
    columns = (table.id, table.model, func.abs(table.score - table.threshold).label("distance"))
    newest = select(*columns).where(wanted).order_by(table.id.desc()).limit(QUEUE_DEPTH).subquery().c
    spread = select(newest.model, func.avg(newest.distance).label("spread")).group_by(newest.model).subquery().c
    closeness = case((newest.distance == 0, 0.0), else_=newest.distance / func.nullif(spread.spread, 0.0))
    order = (func.coalesce(closeness, -1.0), newest.id.desc())
    return select(newest.id).where(newest.model == spread.model).order_by(*order).limit(limit)


def _said(review: Review) -> tuple[ReviewLabel, str, str, str]:
    return review.label, review.note, review.by, review.chosen


def _push(connection: Connection, inspection_id: str, review: Review) -> None:
    """Put a review onto the pile of earlier ones."""
    pile = earlier_reviews.c
    query = select(func.coalesce(func.max(pile.position), 0)).where(pile.inspection_id == inspection_id)
    values: dict[str, Any] = {"position": connection.execute(query).scalar_one() + 1, "label": str(review.label)}
    values |= {"note": review.note, "by": review.by, "at": review.at, "chosen": review.chosen}
    connection.execute(insert(earlier_reviews).values(values | {"inspection_id": inspection_id}))


def _pop(connection: Connection, inspection_id: str) -> Review | None:
    """Take the newest review off the pile of earlier ones; None if it is empty."""
    pile = earlier_reviews.c
    query = select(earlier_reviews).where(pile.inspection_id == inspection_id).order_by(pile.position.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    here = and_(pile.inspection_id == inspection_id, pile.position == row.position)
    connection.execute(delete(earlier_reviews).where(here))
    return Review(ReviewLabel(row.label), row.note, row.by, row.at, row.chosen)


def _set(
    connection: Connection,
    inspection_id: str,
    review: Review | None,
    action: str,
    by: str,
    facts: dict[str, Any],
    before: Review | None,
) -> Inspection:
    """Set the review that holds, and tell it in the audit log."""
    names = ("label", "note", "by", "at", "chosen")
    values = {f"review_{name}": None if review is None else getattr(review, name) for name in names}
    connection.execute(update(inspections).where(inspections.c.id == inspection_id).values(values))
    append_row(connection, action, inspection_id, by, facts | {"before": None if before is None else str(before.label)})
    return inspection_of(row_of(connection, inspection_id))
