"""A chain of rows: each holds the SHA-256 of the row before and of itself, so that a change shows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

START = "0" * 64
"""What the first row holds as the hash of the row before."""


def canonical_json(values: Any) -> str:
    r"""Write JSON values in the one way that is hashed: sorted keys, no spaces, ASCII only.

    Args:
        values: Plain JSON values.

    Raises:
        ValueError: A number is NaN or infinite.
        TypeError: A value is none of JSON.

    Example:
        >>> canonical_json({"b": 1, "a": [None, "é"]})
        '{"a":[null,"\\u00e9"],"b":1}'
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit log.

    Attributes:
        n: Number of the row, from 1 without a gap.
        at: Time, in UTC.
        action: What was done, such as ``review``.
        subject: What it was done to.
        by: Name of the key of the person.
        facts_json: Further facts, as canonical JSON.
        previous: Hash of the row before; :data:`START` for the first.
        hash: SHA-256 of ``previous`` and the row's canonical JSON, see :func:`row_hash`.
    """

    n: int
    at: datetime
    action: str
    subject: str
    by: str
    facts_json: str
    previous: str
    hash: str

    @property
    def facts(self) -> dict[str, Any]:
        """The further facts.

        Raises:
            ValueError: Somebody has damaged them.
        """
        values: dict[str, Any] = json.loads(self.facts_json)
        return values


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a check of the audit log found.

    Attributes:
        rows: Number of rows that were read.
        head: Hash of the last row that was read; :data:`START` of an empty log.
        broken: Number of the first row that is not as it was written; None if all are.
        problem: What is wrong, in words; empty if nothing is.
    """

    rows: int
    head: str
    broken: int | None = None
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem


def row_hash(previous: str, n: int, at: datetime, action: str, subject: str, by: str, facts_json: str) -> str:
    """Compute the hash of a row.

    Args:
        previous: Hash of the row before.
        n: Number of the row.
        at: Time, with its time zone.
        action: What was done.
        subject: What it was done to.
        by: Name of the key of the person.
        facts_json: Further facts, as canonical JSON.

    Returns:
        SHA-256 in hexadecimal.
    """
    row = {
        "n": n,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "action": action,
        "subject": subject,
        "by": by,
        "facts": facts_json,
    }
    return sha256((previous + canonical_json(row)).encode("ascii")).hexdigest()


def check_chain(rows: Iterable[AuditRow], end: tuple[int, str] | None, head: str | None = None) -> AuditReport:
    """Check the rows of an audit log.

    A row that was changed, inserted, deleted or moved breaks the chain, and the first such row is named. Rows cut off
    the end are found because the database notes its last row in another table.

    A chain alone cannot detect what somebody does who may write to the database and knows this code: compute every
    hash anew, or cut the end off and change the note with it. Against that, write the head down elsewhere from time to
    time. A log that still holds a noted head is unchanged up to there.

    Args:
        rows: Rows in the order of their numbers.
        end: Number and hash of the last row, as the database notes them; None if that note is missing.
        head: Hash of a row, written down earlier; None for none.

    Returns:
        What was found.
    """
    n, previous, seen = 0, START, head is None or head == START
    for row in rows:
        problem = _problem(row, n, previous)
        if problem:
            return AuditReport(n, previous, row.n if row.n == n + 1 else n + 1, problem)
        n, previous = row.n, row.hash
        seen = seen or row.hash == head
    if end is None:
        return AuditReport(n, previous, n + 1, "the note of the last row is missing")
    if end != (n, previous):
        cut = f"rows {n + 1} to {end[0]} are missing" if end[0] > n else f"the noted last row is row {end[0]}"
        return AuditReport(n, previous, min(n, end[0]) + 1, f"{cut}, though each row up to row {n} is whole")
    if not seen:
        return AuditReport(n, previous, None, "no row has the given head; rows up to it were removed or written anew")
    return AuditReport(n, previous)


def _problem(row: AuditRow, n: int, previous: str) -> str:
    """What is wrong with a row that should follow row ``n``; empty if nothing is."""
    if row.n != n + 1:
        return f"row {n + 1} is missing; row {row.n} follows row {n}" if row.n > n else f"row {row.n} was inserted"
    if row.previous != previous:
        return f"row {row.n} does not follow the row before: one of them was changed, inserted or moved"
    if row.hash != row_hash(previous, row.n, row.at, row.action, row.subject, row.by, row.facts_json):
        return f"row {row.n} was changed: its hash does not fit its content"
    return ""
