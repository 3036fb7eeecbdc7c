"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    _make_history()
    _make_what_belongs_to_the_history()
    _make_what_belongs_to_products()
    _make_audit_log()


def _make_history() -> None:
    op.create_table(
        "inspections",
        sa.Column("id", ID, nullable=False),
        sa.Column("lot", sa.String(16), nullable=False),
        sa.Column("product", sa.String(100), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("picture", sa.String(64), nullable=False),
        sa.Column("picture_deleted", sa.Boolean(), nullable=False),
        sa.Column("file_name", sa.String(255), nullable=False),
        sa.Column("part_id", sa.String(200), nullable=True),
        sa.Column("station", sa.String(200), nullable=True),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("defective", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.String(100), nullable=False),
        sa.Column("calibration", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("brightness", sa.Double(), nullable=False),
        sa.Column("sharpness", sa.Double(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("source", sa.String(64), nullable=True),
        sa.Column("review_label", sa.String(10), nullable=True),
        sa.Column("review_note", sa.Text(), nullable=True),
        sa.Column("review_by", sa.String(100), nullable=True),
        sa.Column("review_at", TIME, nullable=True),
        sa.Column("review_chosen", sa.String(10), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", name="uq_inspections_source"),
    )
    op.create_index("ix_inspections_at", "inspections", ["at"])
    op.create_index("ix_inspections_part_id", "inspections", ["part_id"])
    op.create_index("ix_inspections_picture", "inspections", ["picture"])
    op.create_index("ix_inspections_product_id", "inspections", ["product", "id"])
    op.create_index("ix_inspections_product_lot", "inspections", ["product", "lot"])
    for_counts = ["product", "review_label", "id", "defective"]
    op.create_index("ix_inspections_product_review_label_id_defective", "inspections", for_counts)
    reviewed = sa.text("review_label IS NOT NULL")
    op.create_index(
        "ix_inspections_reviewed", "inspections", ["product", "id"], sqlite_where=reviewed, postgresql_where=reviewed
    )


def _make_what_belongs_to_the_history() -> None:
    op.create_table(
        "earlier_reviews",
        sa.Column("inspection_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(10), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("chosen", sa.String(10), nullable=False),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("inspection_id", "position"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("sink", sa.String(100), nullable=False),
        sa.Column("inspection_id", ID, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_inspection_id", "outbox", ["inspection_id"])
    op.create_index("ix_outbox_sink_id", "outbox", ["sink", "id"])


def _make_what_belongs_to_products() -> None:
    op.create_table(
        "thresholds",
        sa.Column("product", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("false_alarm_rate", sa.Double(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("made_by", sa.String(100), nullable=False),
        sa.Column("made_at", TIME, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("product", "version"),
    )
    op.create_table(
        "drift",
        sa.Column("product", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("product", "model"),
    )


def _make_audit_log() -> None:
    op.create_table(
        "audit",
        sa.Column("n", COUNTER, autoincrement=False, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("action", sa.String(100), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
    op.create_table(
        "audit_end",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", COUNTER, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    end = sa.table("audit_end", sa.column("id"), sa.column("n"), sa.column("hash"))
    op.bulk_insert(end, [{"id": 1, "n": 0, "hash": "0" * 64}])
