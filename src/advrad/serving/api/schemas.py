"""The forms of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from advrad.serving.api.failures import ErrorAnswer, ErrorDetail
from advrad.serving.api.fields import Moment, Note
from advrad.serving.records import Inspection, ReviewLabel, ThresholdVersion, utc_text

if TYPE_CHECKING:
    from advrad.serving.store.chain import AuditRow

_TIME: dict[str, Any] = {"format": "date-time"}
_EXAMPLE: dict[str, Any] = {
    "id": "01jdq3m7v0c8",
    "product": "screws",
    "at": "2026-11-27T08:30:00+00:00",
    "picture": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "file_name": "part-0001.png",
    "part_id": "A-7",
    "station": "line 2",
    "height_px": 480,
    "width_px": 640,
    "score": 0.71,
    "threshold": 0.52,
    "defective": True,
    "verdict": "defective",
    "calibration": 0,
    "model": "3c1f5a",
    "brightness": 0.41,
    "sharpness": 0.06,
    "details": {},
    "review": None,
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors that a route may answer with, for OpenAPI.

    Args:
        statuses: Statuses of HTTP besides those that every route has.
    """
    words = {
        400: "The request cannot be read.",
        401: "No valid key.",
        403: "The key's role may not do this, or the request comes from another site.",
        404: "There is no such product or inspection.",
        408: "The body arrived too slowly.",
        409: "It does not fit what is there now: somebody else was faster, or something is missing.",
        410: "The picture was deleted, or the model was replaced since.",
        413: "The body is too large.",
        414: "The address is too long.",
        431: "The headers are too large.",
        415: "The content type is not one that is taken here.",
        429: "Too many wrong keys came from this address; wait Retry-After seconds.",
        422: "A value is wrong, or the image cannot be read.",
        503: "Busy, stopping, or the history cannot be reached; ask again after Retry-After seconds.",
        504: "Not inspected in time; it is not in the history.",
    }
    found = sorted({400, 401, 403, 408, 413, 414, 422, 429, 431, 503, *statuses})
    return {status: {"model": ErrorAnswer, "description": words[status]} for status in found}


class ReviewOut(BaseModel):
    """What a person said about an inspection."""

    model_config = ConfigDict(extra="allow")

    label: ReviewLabel
    note: str
    by: str = Field(description="Name of the person's key.")
    at: str = Field(json_schema_extra=_TIME)


class InspectionOut(BaseModel):
    """One inspected image, as the history keeps it."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    product: str
    at: str = Field(description="Time of the request.", json_schema_extra=_TIME)
    picture: str = Field(description="SHA-256 of the image file.")
    file_name: str
    part_id: str | None
    station: str | None
    height_px: int
    width_px: int
    score: float | None = Field(description="Anomaly score; null where a half of a guarded detector failed.")
    threshold: float
    defective: bool
    verdict: str = Field(description="Verdict in words: good, defective, or what a guarded detector says.")
    calibration: int = Field(description="Version of the threshold; 0 is that of the model folder.")
    model: str = Field(description="Identity of the model.")
    brightness: float
    sharpness: float
    details: dict[str, Any] = Field(description="Halves, reason, warning and certificate, where there are any.")
    review: ReviewOut | None

    @classmethod
    def of(cls, inspection: Inspection, **more: Any) -> InspectionOut:
        """The form of a stored inspection.

        Args:
            inspection: The inspection.
            more: Further fields.
        """
        return cls.model_validate(inspection.to_dict() | more)


class FreshInspection(InspectionOut):
    """An image that was inspected just now."""

    artefacts: dict[str, str] = Field(description="The images that were asked for, as PNG in base64, by name.")


class FailedInspection(BaseModel):
    """An image of several that was not inspected."""

    file_name: str
    error: ErrorDetail


class FreshInspections(BaseModel):
    """The answer to images, in their order. One that failed has an error in place of a verdict."""

    inspections: list[FreshInspection | FailedInspection]


class InspectionList(BaseModel):
    """A part of the history, newest first."""

    inspections: list[InspectionOut]
    next: str | None = Field(description="Value for after, to get what is older; null at the end.")


class ReviewIn(BaseModel):
    """What a person says about an inspection."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"label": "good", "note": "only dust on the lens"}]}
    )

    label: ReviewLabel
    note: Note = ""
    chosen: Literal["picked", "random"] = Field(
        default="picked", description="How the inspection came to review: picked by a person, or drawn at random."
    )
    seen: Moment | None = Field(
        default=None,
        description="Time of the review that the person saw, or null for none. Where it is given and the stored review"
        " is another one, the answer is 409.",
    )


class ReviewQueue(BaseModel):
    """What to look at next."""

    inspections: list[InspectionOut]
    remaining: int = Field(description="Inspections of the product that nobody has reviewed.")
    reviewed: int = Field(description="Inspections of the product that somebody has reviewed.")


class ThresholdOut(BaseModel):
    """A version of the threshold of a product."""

    model_config = ConfigDict(extra="allow")

    product: str
    version: int
    threshold: float
    false_alarm_rate: float
    n: int = Field(description="Number of normal images that set it.")
    model: str
    made_by: str
    made_at: str = Field(json_schema_extra=_TIME)
    active: bool
    source: dict[str, Any]

    @classmethod
    def of(cls, version: ThresholdVersion) -> ThresholdOut:
        """The form of a version.

        Args:
            version: The version.
        """
        names = set(cls.model_fields) - {"made_at"}
        values = {name: getattr(version, name) for name in names}
        return cls.model_validate(values | {"made_at": utc_text(version.made_at)})


class ProductRow(BaseModel):
    """A product in the list."""

    name: str
    model: str = Field(description="Identity of the model that inspects now.")
    loaded_at: str = Field(json_schema_extra=_TIME)
    problem: str | None = Field(description="Why what the folder holds now is not loaded; null if it is.")


class ProductList(BaseModel):
    """The products of a service."""

    products: list[ProductRow]


class ProductOut(BaseModel):
    """A product."""

    name: str
    model: str
    provenance: dict[str, Any] = Field(description="Where the model comes from, and what it can do.")
    calibration: dict[str, Any] = Field(description="How the threshold of the model folder was set, with the scores.")
    evaluation: dict[str, Any] | None = Field(description="Figures on test images; null if none are recorded.")
    threshold: float = Field(description="Threshold that decides now.")
    thresholds: list[ThresholdOut]
    guarded: bool = Field(description="Whether a test for each half decides, so that no other threshold suits it.")
    problem: str | None


class ReferenceIn(BaseModel):
    """What is to be learned anew."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"statistics": ["brightness"]}]})

    statistics: list[Literal["score", "brightness", "sharpness"]] = Field(
        default=["score", "brightness", "sharpness"], min_length=1, max_length=3, description="What is compared."
    )


class DriftOut(BaseModel):
    """What the drift monitor sees."""

    model_config = ConfigDict(extra="allow")


class ThresholdIn(BaseModel):
    """Wish for a new threshold."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"false_alarm_rate": 0.05}]})

    false_alarm_rate: float = Field(
        ge=1e-6, le=0.5, description="Largest share of good images that may be called defective."
    )
    images: Literal["drawn", "all"] = Field(
        default="drawn", description="Reviewed images to take: those drawn at random, which keep the promise, or all."
    )


class WhatIf(BaseModel):
    """What a threshold would do."""

    model_config = ConfigDict(extra="allow")


class ThresholdList(BaseModel):
    """All versions of a product's threshold for its model, the newest first; the last is that of the model folder."""

    calibrations: list[ThresholdOut]


class AuditOut(BaseModel):
    """A row of the audit log."""

    n: int = Field(description="Number of the row.")
    at: str = Field(json_schema_extra=_TIME)
    action: str
    subject: str = Field(description="What it was done to.")
    by: str = Field(description="Name of the key of the person; advrad for what the program does by itself.")
    facts: dict[str, Any]
    previous: str = Field(description="Hash of the row before.")
    hash: str

    @classmethod
    def of(cls, row: AuditRow) -> AuditOut:
        """The form of a row.

        Args:
            row: The row.
        """
        values = {name: getattr(row, name) for name in cls.model_fields}
        return cls.model_validate(values | {"at": utc_text(row.at)})


class AuditList(BaseModel):
    """A part of the audit log."""

    rows: list[AuditOut]
    next: int | None = Field(description="Value for after, to get the rows behind these; null at the end.")


class Health(BaseModel):
    """Whether the service lives and can work."""

    status: Literal["ok", "not ready"]
    reasons: list[str] = Field(default=[], description="Why it is not ready.")
