"""The tables of the store, the same in SQLite and PostgreSQL.

A change here needs a new file in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
)

from advrad.serving.store.chain import canonical_json


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC with its time zone, to the microsecond. SQLite keeps no time zone, so it is added when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a time to UTC; one without a time zone is a mistake of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value}: has no time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(TypeDecorator[Any]):
    """JSON values as ASCII text: any character of a text inside survives in both databases."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Write the values."""
        return canonical_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read the values."""
        return None if value is None else json.loads(value)


# The order of PostgreSQL's texts depends on the language of the server, unless it is told to compare bytes as SQLite.
_ID = String(26).with_variant(String(26, collation="C"), "postgresql")
_COUNTER = BigInteger().with_variant(Integer, "sqlite")
_DIGEST, _NAME, _PART = String(64), String(100), String(200)

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"}
)

inspections = Table(
    "inspections",
    metadata,
    Column("id", _ID, primary_key=True),
    # The start of the SHA-256 of the identity: an order that is random, the same for everyone, and chosen by nobody.
    Column("lot", String(16), nullable=False),
    Column("product", _NAME, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("picture", _DIGEST, nullable=False),
    Column("picture_deleted", Boolean, nullable=False, default=False),
    Column("file_name", String(255), nullable=False),
    Column("part_id", _PART),
    Column("station", _PART),
    Column("height_px", Integer, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("score", Double),
    Column("threshold", Double, nullable=False),
    Column("defective", Boolean, nullable=False),
    Column("verdict", _NAME, nullable=False),
    Column("calibration", Integer, nullable=False),
    Column("model", _NAME, nullable=False),
    Column("brightness", Double, nullable=False),
    Column("sharpness", Double, nullable=False),
    Column("details", JsonText, nullable=False),
    # Nullable and unique: a request without a source always counts, one with a source counts once.
    Column("source", _DIGEST, unique=True),
    # What a person said last. Earlier reviews are in the table below.
    Column("review_label", String(10)),
    Column("review_note", Text),
    Column("review_by", _NAME),
    Column("review_at", UtcTime),
    Column("review_chosen", String(10)),
    Index(None, "product", "id"),
    Index(None, "product", "lot"),
    # With the verdict, so that counting reads the index alone.
    Index(None, "product", "review_label", "id", "defective"),
    Index(None, "at"),
    Index(None, "part_id"),
    Index(None, "picture"),
)

# Few are reviewed, so that they are found without reading all others.
_REVIEWED = inspections.c.review_label.is_not(None)
Index(
    "ix_inspections_reviewed",
    inspections.c.product,
    inspections.c.id,
    sqlite_where=_REVIEWED,
    postgresql_where=_REVIEWED,
)

earlier_reviews = Table(
    "earlier_reviews",
    metadata,
    Column("inspection_id", _ID, ForeignKey("inspections.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("label", String(10), nullable=False),
    Column("note", Text, nullable=False),
    Column("by", _NAME, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("chosen", String(10), nullable=False),
    PrimaryKeyConstraint("inspection_id", "position"),
)

thresholds = Table(
    "thresholds",
    metadata,
    Column("product", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("false_alarm_rate", Double, nullable=False),
    Column("n", Integer, nullable=False),
    Column("model", _NAME, nullable=False),
    Column("made_by", _NAME, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("source", JsonText, nullable=False),
    PrimaryKeyConstraint("product", "version"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _COUNTER, primary_key=True),
    Column("sink", _NAME, nullable=False),
    Column("inspection_id", _ID, ForeignKey("inspections.id", ondelete="CASCADE"), nullable=False),
    Column("attempts", Integer, nullable=False),
    # Empty for a row that nobody has tried to deliver: it is due whatever the clock says.
    Column("due_at", UtcTime),
    Column("last_error", Text, nullable=False),
    # The first row of those that it was last sent with.
    Column("batch", _COUNTER),
    Index(None, "sink", "id"),
    Index(None, "inspection_id"),
    # A number is never used again, so that a late "delivered" cannot mean another row.
    sqlite_autoincrement=True,
)

drift = Table(
    "drift",
    metadata,
    Column("product", _NAME, nullable=False),
    Column("model", _NAME, nullable=False),
    Column("state", JsonText, nullable=False),
    PrimaryKeyConstraint("product", "model"),
)

audit = Table(
    "audit",
    metadata,
    Column("n", _COUNTER, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("action", _NAME, nullable=False),
    Column("subject", Text, nullable=False),
    Column("by", _NAME, nullable=False),
    Column("facts", Text, nullable=False),
    Column("previous", _DIGEST, nullable=False),
    Column("hash", _DIGEST, nullable=False),
)

audit_end = Table(
    "audit_end",
    metadata,
    # The only row has the number 1. Whoever appends to the log locks it first.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("n", _COUNTER, nullable=False),
    Column("hash", _DIGEST, nullable=False),
)
