"""The border of the store: which texts and numbers it takes.

PostgreSQL cannot hold the character NUL, and neither database can hold one half of a surrogate pair. What a person or
a machine writes on purpose (names, part, station, note) is refused with a clear error. The name of a file is only shown
to people, so its odd characters are replaced instead. SQL and HTML are ordinary text here: statements have bound
parameters, and whoever shows a text escapes it.
"""

from __future__ import annotations

import math
import re
from hashlib import sha256

from advrad.errors import ConfigError
from advrad.serving.records import Inspection, InspectionRequest

NAME_CHARACTERS = 100
"""Longest name of a product, a model, a verdict, an action or a person's key."""

PART_CHARACTERS = 200
"""Longest identity of a part, and longest name of a station."""

NOTE_CHARACTERS = 4000
"""Longest note of a review."""

FILE_NAME_CHARACTERS = 255
"""Longest name of a file; a longer one loses its beginning."""

SUBJECT_CHARACTERS = 400
"""Longest subject of a row of the audit log."""

_REFUSED = re.compile("[\0\ud800-\udfff]")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_text(text: str, option: str, limit: int) -> str:
    """Check a text that somebody gave on purpose.

    Args:
        text: Text to check.
        option: Name of the parameter, for the error.
        limit: Largest number of characters.

    Returns:
        The text.

    Raises:
        ConfigError: It is too long, or holds a character that a database cannot keep.

    Example:
        >>> check_text("<b>'; drop table</b>", "note", 40)
        "<b>'; drop table</b>"
    """
    if len(text) > limit:
        raise ConfigError(f"has {len(text)} characters; use at most {limit}", option=option)
    found = _REFUSED.search(text)
    if found:
        raise ConfigError(
            f"character {found.start() + 1} is {found.group()!a}, which cannot be stored; remove it", option=option
        )
    return text


def clean_file_name(name: str) -> str:
    """Make the name of a file fit to be stored and shown: odd characters become a question mark in a diamond.

    Args:
        name: Name as its sender gave it.

    Returns:
        The name, with at most :data:`FILE_NAME_CHARACTERS` characters; the end of a longer one, which says most.

    Example:
        >>> clean_file_name("part" + chr(0) + ".png")
        'part�.png'
    """
    return re.sub("[\0-\x1f\x7f\ud800-\udfff]", "�", name[-FILE_NAME_CHARACTERS:])


def check_request(request: InspectionRequest) -> None:
    """Check the texts of a request before it is queued, so that it cannot spoil the transaction that it shares.

    Args:
        request: Request to check.

    Raises:
        ConfigError: A text is too long, or holds a character that cannot be stored.
    """
    _check_names(request.product, request.part_id, request.station, request.source)


def check_inspection(inspection: Inspection) -> None:
    """Check the texts and numbers of an inspection.

    Args:
        inspection: Inspection to store.

    Raises:
        ConfigError: A text is too long or cannot be stored, a number is not a number, or a time has no time zone.
    """
    _check_names(inspection.product, inspection.part_id, inspection.station, inspection.source)
    check_text(inspection.model, "model", NAME_CHARACTERS)
    check_text(inspection.verdict, "verdict", NAME_CHARACTERS)
    check_digest(inspection.picture, "picture")
    for name in ("score", "threshold", "brightness", "sharpness"):
        value = getattr(inspection, name)
        # SQLite would store NaN as "no value".
        if value is not None and math.isnan(value):
            raise ConfigError("is not a number", option=name)
    if inspection.at.tzinfo is None:
        raise ConfigError("has no time zone; give the time in UTC", option="at")


def check_digest(digest: str, option: str) -> str:
    """Check that a text is a SHA-256 in hexadecimal.

    Args:
        digest: Text to check.
        option: Name of the parameter, for the error.

    Returns:
        The text.

    Raises:
        ConfigError: It is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigError("is no SHA-256 of 64 hexadecimal digits", option=option)
    return digest


def source_key(*parts: str) -> str:
    """Make the identity of what is inspected, under which the history takes it once.

    Args:
        parts: What it consists of, such as the path of a file and the SHA-256 of its content.

    Returns:
        A SHA-256 in hexadecimal; different parts give different identities.

    Example:
        >>> source_key("a", "bc") == source_key("ab", "c")
        False
    """
    digest = sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _check_names(product: str, part_id: str | None, station: str | None, source: str | None) -> None:
    if not product:
        raise ConfigError("is empty; name a product", option="product")
    check_text(product, "product", NAME_CHARACTERS)
    if part_id is not None:
        check_text(part_id, "part_id", PART_CHARACTERS)
    if station is not None:
        check_text(station, "station", PART_CHARACTERS)
    if source is not None:
        check_digest(source, "source")
