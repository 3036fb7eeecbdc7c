"""What was sent together to a sink."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    op.add_column("outbox", sa.Column("batch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))
