"""What the service remembers: inspections, reviews, thresholds, deliveries, the audit log, and the images as files.

One database, SQLite or PostgreSQL, holds everything but the images; their files lie in the data folder under the
SHA-256 of their content. Each method is one transaction: it is stored as a whole or not at all. All parts are
thread-safe, and several processes may use one store.
"""

from advrad.serving.store.audit import AuditLog
from advrad.serving.store.chain import AuditReport, AuditRow
from advrad.serving.store.filters import InspectionFilter, ReviewState
from advrad.serving.store.inspections import InspectionCounts, Inspections
from advrad.serving.store.retention import RetentionReport
from advrad.serving.store.reviews import UNCHECKED, QueueOrder
from advrad.serving.store.store import Store
from advrad.serving.store.texts import check_request, source_key

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
