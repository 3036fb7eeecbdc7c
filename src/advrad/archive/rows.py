"""The rows of the results, as Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

#: Key of the metadata of a results file, in which stands what it was judged with.
METADATA_KEY = b"advrad"

#: How the columns are written.
WRITING: Mapping[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["threshold", "verdict", "defective", "warning", "model"],
}
_COLUMNS = {
    "path": "string",
    "content": "string",
    "score": "double",
    "threshold": "double",
    "verdict": "string",
    "defective": "bool",
    "proven_radius": "double",
    "warning": "string",
    "error": "string",
    "model": "string",
}


def schema(facts: Mapping[str, Any]) -> pa.Schema:
    """The columns of the results.

    Args:
        facts: What they were judged with, as JSON values.
    """
    import pyarrow as pa

    kinds = {"string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    fields = [(name, kinds[kind]) for name, kind in _COLUMNS.items()]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(facts, sort_keys=True)})


def facts_of(found: pa.Schema) -> dict[str, Any] | None:
    """What results were judged with.

    Args:
        found: Columns of a Parquet file.

    Returns:
        The values; None if the file holds no results of an archive.
    """
    text = (found.metadata or {}).get(METADATA_KEY)
    if text is None or found.names != list(_COLUMNS):
        return None
    values = json.loads(text)
    return values if isinstance(values, dict) else None


def encoded(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> bytes:
    """Rows as the content of a Parquet file.

    Args:
        rows: Values by column; what is missing is null.
        facts: What they were judged with.
    """
    import pyarrow as pa
    from pyarrow import parquet

    # Names of files need not be valid text.
    valid = [{key: _text(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(valid, schema(facts)), file, **WRITING)
    return file.getvalue()


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
