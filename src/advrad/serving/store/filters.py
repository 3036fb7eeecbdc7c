"""Which inspections somebody asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import ColumnElement, or_

from advrad.errors import ConfigError
from advrad.serving.store.ids import is_id
from advrad.serving.store.tables import inspections

ReviewState = Literal["none", "any", "good", "defective", "unsure"]
"""Not reviewed; reviewed; reviewed with this label."""


@dataclass(frozen=True, slots=True)
class InspectionFilter:
    """Conditions on inspections; each that is None is none. All must hold.

    Attributes:
        product: Name of the product.
        model: Identity of the model.
        verdict: Verdict in words.
        defective: Whether the image is called defective.
        review: State of the review, see :data:`ReviewState`.
        part_id: Identity of the part.
        station: Name of the station.
        since: Earliest time.
        until: Time before which the inspections were.
        text: Part of the name of the file, the identity of the part or the note of the review. Capital letters do not
            matter; of letters outside ASCII they do in SQLite.

    Example:
        >>> InspectionFilter(product="screw", review="none").defective is None
        True
    """

    product: str | None = None
    model: str | None = None
    verdict: str | None = None
    defective: bool | None = None
    review: ReviewState | None = None
    part_id: str | None = None
    station: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: A value is unknown, or a time has no time zone.
        """
        if self.review is not None and self.review not in get_args(ReviewState):
            raise ConfigError(
                f"is unknown; choose {', '.join(get_args(ReviewState))}", option="review", value=ascii(self.review)
            )
        for name in ("since", "until"):
            value = getattr(self, name)
            if value is not None and value.tzinfo is None:
                raise ConfigError("has no time zone; end it with Z for UTC", option=name, value=value.isoformat())

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions as parts of a statement."""
        table = inspections.c
        found: list[ColumnElement[bool]] = []
        for name in ("product", "model", "verdict", "defective", "part_id", "station"):
            value = getattr(self, name)
            if value is not None:
                found.append(table[name] == (_searchable(value) if isinstance(value, str) else value))
        if self.review == "none":
            found.append(table.review_label.is_(None))
        elif self.review == "any":
            found.append(table.review_label.is_not(None))
        elif self.review is not None:
            found.append(table.review_label == self.review)
        if self.since is not None:
            found.append(table.at >= self.since)
        if self.until is not None:
            found.append(table.at < self.until)
        if self.text:
            text = _searchable(self.text)
            places = (table.file_name, table.part_id, table.review_note)
            found.append(or_(*(place.icontains(text, autoescape=True) for place in places)))
        return found


def check_cursor(after: str | None) -> str | None:
    """Check a cursor that came from outside.

    Args:
        after: Identity of an inspection; None for none.

    Returns:
        The cursor.

    Raises:
        ConfigError: It has not the form of an identity.
    """
    if after is not None and not is_id(after):
        raise ConfigError("is no identity of an inspection; give the last one of the page before", option="after")
    return after


def _searchable(text: str) -> str:
    """The text with what no stored text can hold replaced by a character that no stored text holds either."""
    return "".join("\uffff" if one == "\0" or "\ud800" <= one <= "\udfff" else one for one in text)
