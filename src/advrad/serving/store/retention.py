"""How long images are kept. What was decided about them stays for good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, func, select, update

from advrad.serving.store.audit import append_row
from advrad.serving.store.database import Database
from advrad.serving.store.pictures import PictureFile, Pictures
from advrad.serving.store.tables import inspections

ORPHAN_S = 3600.0
"""Seconds after which a file that belongs to no inspection is removed."""

_CHUNK = 500
_T = TypeVar("_T")
_Uses = dict[str, tuple[datetime, bool]]


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What a run removed.

    Attributes:
        deleted: SHA-256 of the images that were removed.
        orphans: Number of files without an inspection that were removed.
        freed: Number of bytes that were freed.
        kept: Number of bytes that the remaining images take.
    """

    deleted: tuple[str, ...]
    orphans: int
    freed: int
    kept: int


@dataclass(slots=True)
class _Plan:
    """Files to remove, and what is known of all files."""

    deleted: list[PictureFile] = field(default_factory=list)
    orphans: list[PictureFile] = field(default_factory=list)
    uses: _Uses = field(default_factory=dict)
    kept: int = 0


class Retention:
    """Removes images that are old, or too many.

    Args:
        database: Open database.
        pictures: Files of the images.
    """

    def __init__(self, database: Database, pictures: Pictures) -> None:
        self._database, self._pictures = database, pictures

    def apply(
        self,
        now: datetime,
        max_age: timedelta | None = None,
        max_bytes: int | None = None,
        *,
        keep_reviewed: bool = True,
    ) -> RetentionReport:
        """Remove the images whose newest inspection is too old, then the oldest until all fit into a size.

        Files without an inspection go after :data:`ORPHAN_S`. An image that was sent within the last minute is never
        removed. Rows are never deleted; they note that their image is gone, and the audit log names each image before
        its file goes.

        Args:
            now: Time, in UTC.
            max_age: Age above which an image goes; None for no limit.
            max_bytes: Bytes that all images may take; None for no limit.
            keep_reviewed: Whether images that a person has reviewed stay, whatever their age and size: they are what a
                new threshold or a new model is made from.

        Returns:
            What was removed.

        Raises:
            StoreUnavailable: The database or the disk cannot be used now.
        """
        plan = self._plan(now, max_age, max_bytes, keep_reviewed)
        gone: list[PictureFile] = []
        for chunk in _chunks(plan.deleted):
            unused = self._note(chunk, plan.uses)
            stayed = [one for one in unused if not self._pictures.remove(str(one.digest))]
            if stayed:
                # Sent again meanwhile.
                self._mark_kept(stayed)
            gone += [one for one in unused if one not in stayed]
        orphans = [one for chunk in _chunks(plan.orphans) for one in self._remove_orphans(chunk)]
        freed = sum(one.size for one in (*gone, *orphans))
        stayed_bytes = sum(one.size for one in plan.deleted) - sum(one.size for one in gone)
        return RetentionReport(tuple(str(one.digest) for one in gone), len(orphans), freed, plan.kept + stayed_bytes)

    def _plan(self, now: datetime, max_age: timedelta | None, max_bytes: int | None, keep_reviewed: bool) -> _Plan:
        plan = _Plan()
        ours: list[tuple[datetime, bool, PictureFile]] = []
        for chunk in _chunks(self._pictures.files()):
            with self._database.reading() as connection:
                uses = _uses(connection, chunk)
            plan.uses |= uses
            for one in chunk:
                if one.digest in uses:
                    ours.append((*uses[one.digest], one))
                elif one.age_s > ORPHAN_S:
                    plan.orphans.append(one)
        plan.kept = sum(one.size for _, _, one in ours)
        for newest, reviewed, one in sorted(ours, key=lambda row: (row[0], row[2].digest)):
            too_old = max_age is not None and newest < now - max_age
            too_much = max_bytes is not None and plan.kept > max_bytes
            if (too_old or too_much) and not (reviewed and keep_reviewed) and one.is_idle:
                plan.deleted.append(one)
                plan.kept -= one.size
        return plan

    def _note(self, chunk: list[PictureFile], planned: _Uses) -> list[PictureFile]:
        """Note that images go, and tell it; return those of which nothing has changed since the plan."""
        with self._database.writing() as connection:
            uses = _uses(connection, chunk)
            going = [one for one in chunk if one.digest is not None and uses.get(one.digest) == planned[one.digest]]
            if going:
                _mark(connection, going, deleted=True)
                facts = {"bytes": sum(one.size for one in going), "pictures": [one.digest for one in going]}
                append_row(connection, "delete pictures", f"{len(going)} images", "advrad", facts)
        return going

    def _mark_kept(self, files: list[PictureFile]) -> None:
        with self._database.writing() as connection:
            _mark(connection, files, deleted=False)

    def _remove_orphans(self, chunk: list[PictureFile]) -> list[PictureFile]:
        """Remove files that still belong to no inspection; return those that are gone."""
        with self._database.reading() as connection:
            uses = _uses(connection, chunk)
        return [one for one in chunk if one.digest not in uses and self._remove(one)]

    def _remove(self, one: PictureFile) -> bool:
        if one.digest is None:
            return self._pictures.remove_leftover(one.path)
        return self._pictures.remove(one.digest)


def _uses(connection: Connection, files: list[PictureFile]) -> _Uses:
    """Time of the newest inspection of each image, and whether any of its inspections is reviewed."""
    table = inspections.c
    query = (
        select(table.picture, func.max(table.at), func.count(table.review_label))
        .where(table.picture.in_([one.digest for one in files if one.digest is not None]))
        .group_by(table.picture)
    )
    return {picture: (newest, n > 0) for picture, newest, n in connection.execute(query)}


def _mark(connection: Connection, files: list[PictureFile], *, deleted: bool) -> None:
    here = inspections.c.picture.in_([one.digest for one in files])
    connection.execute(update(inspections).where(here).values(picture_deleted=deleted))


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    """Lists of a bounded length, so that no statement and no row of the log grows with the number of images."""
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
