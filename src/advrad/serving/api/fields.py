"""Types of what requests carry: names, identities, texts and times, checked before anything else sees them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, AwareDatetime, Field

from advrad.serving.settings import PRODUCT_NAME

_UNSTORABLE = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def _text(value: str) -> str:
    """Refuse what no database holds and no screen shows."""
    if _UNSTORABLE.search(value):
        raise ValueError("holds a control character or half of a character; remove it")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range; give a year from 1 to 9999") from None


Text = Annotated[str, Field(max_length=200), AfterValidator(_text)]
"""Identity of a part, or name of a station."""

Note = Annotated[str, Field(max_length=4000), AfterValidator(_text)]
"""What a person writes about an inspection."""

Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""Time with its distance from UTC, such as 2026-11-27T08:30:00Z."""

ProductName = Annotated[str, Path(pattern=f"^{PRODUCT_NAME}$", description="Name of the product.", examples=["screws"])]
InspectionId = Annotated[
    str, Path(pattern="^[0-9A-Za-z_-]{1,64}$", description="Identity of the inspection.", examples=["01jd"])
]
Limit = Annotated[int, Query(ge=1, le=500, description="Most entries of the answer.")]
Cursor = Annotated[
    str | None, Query(pattern="^[0-9A-Za-z_-]{1,64}$", description="Value of next in the answer before.")
]
