"""Inspections made up for tests of the store and of what uses it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from advrad.serving.records import Inspection, Review, ReviewLabel
from advrad.serving.store import Store

AT = datetime(2026, 11, 27, 8, 30, 15, 123456, tzinfo=UTC)
"""Time of inspections and reviews of which a test says nothing else."""

PICTURE = "5" * 64


def toy_inspection(store: Store, **changes: Any) -> Inspection:
    """An inspection with a new identity, which is not stored yet."""
    values: dict[str, Any] = {
        "id": store.inspections.new_id(),
        "product": "screw",
        "at": AT,
        "picture": PICTURE,
        "file_name": "part 7.png",
        "part_id": None,
        "station": None,
        "height_px": 48,
        "width_px": 64,
        "score": 1.25,
        "threshold": 1.5,
        "defective": False,
        "verdict": "good",
        "calibration": 0,
        "model": "m1",
        "brightness": 0.5,
        "sharpness": 0.125,
    }
    return Inspection(**(values | changes))


def stored(store: Store, n: int = 1, **changes: Any) -> list[Inspection]:
    """Store inspections, and return them."""
    return store.inspections.add_many([toy_inspection(store, **changes) for _ in range(n)])


def toy_review(label: str = "good", note: str = "", by: str = "ann", at: datetime = AT, **changes: Any) -> Review:
    """A review."""
    return Review(ReviewLabel(label), note, by, at, **changes)
