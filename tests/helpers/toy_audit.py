"""An audit log in memory, which a test may break."""

from __future__ import annotations

from typing import Any

from advrad.serving.errors import StoreUnavailable


class ToyAuditLog:
    """Keeps what is appended."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, dict[str, Any] | None]] = []
        self.broken = False

    def append(self, action: str, subject: str, by: str, facts: dict[str, Any] | None = None, /) -> None:
        if self.broken:
            raise StoreUnavailable("the database is gone", "start it")
        self.rows.append((action, subject, by, facts))
