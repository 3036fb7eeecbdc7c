"""What is known already: verdicts by the content of the image, in a file that any number of processes may read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

_FIELDS = ("score", "threshold", "verdict", "defective", "proven_radius", "warning", "error")
_BATCH = 8192


def write_known(path: Path, tables: Iterable[Path]) -> int:
    """Write what is known.

    Args:
        path: File to write; it must not exist.
        tables: Results by the same detector with the same settings.

    Returns:
        Number of contents.
    """
    with closing(sqlite3.connect(path)) as database, database:
        # The file is made anew at each start, so a crash may spoil it.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        names = ", ".join(_FIELDS)
        database.execute(f"CREATE TABLE known (content BLOB PRIMARY KEY, {names}) WITHOUT ROWID")
        marks = ", ".join("?" * (1 + len(_FIELDS)))
        database.executemany(f"INSERT OR IGNORE INTO known VALUES ({marks})", _rows(tables))
        (count,) = database.execute("SELECT COUNT(*) FROM known").fetchone()
    return int(count)


def _rows(tables: Iterable[Path]) -> Iterator[tuple[Any, ...]]:
    from pyarrow import parquet

    for path in tables:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=["content", *_FIELDS]):
                for row in batch.to_pylist():
                    if row["content"] is not None:
                        yield (bytes.fromhex(row["content"]), *(row[name] for name in _FIELDS))


class Known:
    """Verdicts by content.

    Args:
        path: File of :func:`write_known`; None, or a file that is not on this machine, for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._database: sqlite3.Connection | None = None
        if path is not None and path.is_file():
            address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            self._database = sqlite3.connect(address, uri=True, check_same_thread=False)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def find(self, content: str) -> dict[str, Any] | None:
        """What is known about an image.

        Args:
            content: SHA-256 of its content, in hexadecimal.

        Returns:
            Values by column; None if nothing is known.
        """
        if self._database is None:
            return None
        query = f"SELECT {', '.join(_FIELDS)} FROM known WHERE content = ?"
        found = self._database.execute(query, (bytes.fromhex(content),)).fetchone()
        if found is None:
            return None
        values = dict(zip(_FIELDS, found, strict=True))
        return values | {"defective": None if values["defective"] is None else bool(values["defective"])}
