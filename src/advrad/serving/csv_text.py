"""Inspections as rows of a CSV file: one form for the export of the history and for the sink that appends to a file.

Each row is one line, also where a name holds line breaks, so that a file that was cut off can be mended.

A spreadsheet runs a cell that begins like a formula. Text that came from outside, such as a part's identity, gets an
apostrophe before such a beginning: ``=1+1`` becomes ``'=1+1``, also behind a semicolon, where many spreadsheets begin a
cell. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from advrad.serving.records import Inspection, utc_text

COLUMNS = (
    "id",
    "at",
    "product",
    "file_name",
    "part_id",
    "station",
    "verdict",
    "defective",
    "score",
    "threshold",
    "calibration",
    "model",
    "height_px",
    "width_px",
    "brightness",
    "sharpness",
    "picture",
    "review",
    "note",
    "reviewed_by",
)
"""Names of the columns, in order. New ones are added at the end only."""

#: The beginning of a formula, also in the wide characters of East Asian keyboards.
_FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


def csv_header() -> str:
    """The first line, with its line break.

    Example:
        >>> csv_header()[:16]
        'id,at,product,fi'
    """
    return _line(COLUMNS)


def csv_line(inspection: Inspection) -> str:
    """The row of an inspection, with its line break.

    Args:
        inspection: The inspection.
    """
    review = inspection.review
    values: dict[str, str | int | float | None] = {
        "id": inspection.id,
        "at": utc_text(inspection.at),
        "product": safe_text(inspection.product),
        "file_name": safe_text(inspection.file_name),
        "part_id": safe_text(inspection.part_id or ""),
        "station": safe_text(inspection.station or ""),
        "verdict": inspection.verdict,
        "defective": "true" if inspection.defective else "false",
        "score": inspection.score,
        "threshold": inspection.threshold,
        "calibration": inspection.calibration,
        "model": inspection.model,
        "height_px": inspection.height_px,
        "width_px": inspection.width_px,
        "brightness": inspection.brightness,
        "sharpness": inspection.sharpness,
        "picture": inspection.picture,
        "review": "" if review is None else str(review.label),
        "note": "" if review is None else safe_text(review.note),
        "reviewed_by": "" if review is None else safe_text(review.by),
    }
    return _line("" if values[name] is None else values[name] for name in COLUMNS)


def safe_text(text: str) -> str:
    r"""Text that stays on one line, and that no spreadsheet takes for a formula.

    Args:
        text: Any text.

    Example:
        >>> safe_text("=HYPERLINK(1)"), safe_text("part\n7"), safe_text("A-7")
        ("'=HYPERLINK(1)", 'part\\n7', 'A-7')
    """
    line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    return _FORMULA.sub(r"\1'\2", line)


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(list(values))
    return text.getvalue()
