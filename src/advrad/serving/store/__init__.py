"""What the service remembers: inspections, reviews, thresholds, deliveries, the audit log, and the images as files.

One database, SQLite or PostgreSQL, holds everything but the images; their files lie in the data folder under the
SHA-256 of their content. Each method is one transaction: it is stored as a whole or not at all. All parts are
thread-safe, and several processes may use one store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = [
    "UNCHECKED",
    "AuditLog",
    "AuditReport",
    "AuditRow",
    "InspectionCounts",
    "InspectionFilter",
    "Inspections",
    "QueueOrder",
    "RetentionReport",
    "ReviewState",
    "Store",
    "check_request",
    "source_key",
]

if TYPE_CHECKING:
    from advrad.serving.store.audit import AuditLog
    from advrad.serving.store.chain import AuditReport, AuditRow
    from advrad.serving.store.filters import InspectionFilter, ReviewState
    from advrad.serving.store.inspections import InspectionCounts, Inspections
    from advrad.serving.store.retention import RetentionReport
    from advrad.serving.store.reviews import UNCHECKED, QueueOrder
    from advrad.serving.store.store import Store
    from advrad.serving.store.texts import check_request, source_key
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "UNCHECKED": "advrad.serving.store.reviews",
            "AuditLog": "advrad.serving.store.audit",
            "AuditReport": "advrad.serving.store.chain",
            "AuditRow": "advrad.serving.store.chain",
            "InspectionCounts": "advrad.serving.store.inspections",
            "InspectionFilter": "advrad.serving.store.filters",
            "Inspections": "advrad.serving.store.inspections",
            "QueueOrder": "advrad.serving.store.reviews",
            "RetentionReport": "advrad.serving.store.retention",
            "ReviewState": "advrad.serving.store.filters",
            "Store": "advrad.serving.store.store",
            "check_request": "advrad.serving.store.texts",
            "source_key": "advrad.serving.store.texts",
        },
    )
