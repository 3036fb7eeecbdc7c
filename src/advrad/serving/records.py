"""What the parts of the service hand to each other: a request, its judgement, and what the history keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


def utc_text(at: datetime) -> str:
    """A time as text in JSON: ISO 8601, in UTC.

    Args:
        at: Time with a time zone.

    Example:
        >>> utc_text(datetime(2026, 11, 27, 8, 30, tzinfo=UTC))
        '2026-11-27T08:30:00+00:00'
    """
    return at.astimezone(UTC).isoformat()


class ReviewLabel(StrEnum):
    """What a person says about an inspected image.

    Example:
        >>> str(ReviewLabel.UNSURE)
        'unsure'
    """

    GOOD = "good"
    DEFECTIVE = "defective"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class InspectionRequest:
    """One image to inspect.

    Attributes:
        product: Name of the product.
        picture: Content of the image file.
        file_name: Name that the sender gave the file, shown to people and never used as a path; empty if none.
        part_id: Identity of the part; None if the sender gave none.
        station: Place of the inspection; None if the sender gave none.
        certify: Whether to compute how far the verdict is proven.
        artefacts: Images to draw: ``map``, ``overlay`` and ``reconstruction``.
        source: Key of where the image comes from, for a watched folder, see :func:`advrad.serving.store.source_key`;
            the history holds each key once. None for an image that counts each time it is sent.
    """

    product: str
    picture: bytes = field(repr=False)
    file_name: str = ""
    part_id: str | None = None
    station: str | None = None
    certify: bool = False
    artefacts: frozenset[str] = frozenset()
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """What a person said about an inspection.

    Attributes:
        label: Good, defective or unsure.
        note: Free text; may be empty.
        by: Name of the person's key.
        at: Time, in UTC.
        chosen: How the image came to be reviewed: ``picked`` by a person or because it is close to the threshold, or
            ``random``. Only a random choice stands for all images.
    """

    label: ReviewLabel
    note: str
    by: str
    at: datetime
    chosen: str = "picked"

    def to_dict(self) -> dict[str, Any]:
        """The review as JSON values."""
        return {"label": str(self.label), "note": self.note, "by": self.by, "at": utc_text(self.at)}


@dataclass(frozen=True, slots=True)
class Inspection:
    """One inspected image, as the history keeps it.

    Attributes:
        id: Identity; later inspections sort after earlier ones, also where the clock was set back.
        product: Name of the product.
        at: Time of the request, in UTC.
        picture: SHA-256 of the image file, in hexadecimal.
        file_name: Name that the sender gave the file.
        part_id: Identity of the part; None if none was given.
        station: Place of the inspection; None if none was given.
        height_px: Height of the image.
        width_px: Width of the image.
        score: Anomaly score; None where a half of a guarded detector failed and there is none.
        threshold: Threshold that decided.
        defective: Whether the image is called defective.
        verdict: Verdict in words, see :class:`advrad.detectors.verdicts.Verdict`; ``good`` or ``defective`` without
            halves.
        calibration: Version of the threshold: 0 is that of the model folder.
        model: Identity of the model, see :func:`advrad.detectors.loading.load_target`.
        brightness: Mean of the image, in [0, 1].
        sharpness: Standard deviation of the image's Laplacian, for values in [0, 1].
        details: Further facts as JSON values: halves, reason, warning, certificate.
        review: What a person said; None if nobody did.
        source: Key of where the image comes from; see :class:`InspectionRequest`.
    """

    id: str
    product: str
    at: datetime
    picture: str
    file_name: str
    part_id: str | None
    station: str | None
    height_px: int
    width_px: int
    score: float | None
    threshold: float
    defective: bool
    verdict: str
    calibration: int
    model: str
    brightness: float
    sharpness: float
    details: dict[str, Any] = field(default_factory=dict)
    review: Review | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON values, as the HTTP interface and the sinks tell it; without ``source``."""
        names = [one.name for one in fields(self) if one.name != "source"]
        values = {name: getattr(self, name) for name in names}
        review = None if self.review is None else self.review.to_dict()
        return values | {"at": utc_text(self.at), "review": review}


@dataclass(frozen=True, slots=True)
class InspectionAnswer:
    """A stored inspection with the images that were asked for.

    Attributes:
        inspection: The inspection; it is in the history.
        artefacts: PNG files by name: ``map``, ``overlay``, ``reconstruction``. One that the detector does not make is
            missing.
        known: Whether the history held the image's source already; then this is the older inspection, and nothing was
            stored.
    """

    inspection: Inspection
    artefacts: dict[str, bytes] = field(default_factory=dict, repr=False)
    known: bool = False


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An inspection that a sink has not received yet.

    Attributes:
        id: Identity of the row; later rows sort after earlier ones.
        sink: Name of the sink.
        inspection: What to deliver.
        attempts: Number of failed attempts.
        error: Why the last attempt failed; None before the first.
        batch: Identity of the first row of those that it was last sent with; None if it was not sent yet, or to a sink
            that does not need to know.
    """

    id: int
    sink: str
    inspection: Inspection
    attempts: int = 0
    error: str | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class ThresholdVersion:
    """A threshold of a product.

    Attributes:
        product: Name of the product.
        version: Number; 0 is the threshold of the model folder.
        threshold: Threshold of the score.
        false_alarm_rate: False-alarm rate that it keeps.
        n: Number of normal images that set it.
        model: Identity of the model whose scores set it.
        made_by: Name of the key of the person; empty for version 0.
        made_at: Time, in UTC.
        active: Whether it decides now.
        source: Where the scores come from, as JSON values.
    """

    product: str
    version: int
    threshold: float
    false_alarm_rate: float
    n: int
    model: str
    made_by: str
    made_at: datetime
    active: bool
    source: dict[str, Any] = field(default_factory=dict)
