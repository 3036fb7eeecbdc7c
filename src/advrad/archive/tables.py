"""Parquet files whose rows hold images: bytes, or bytes beside a path as data sets of images have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from advrad.archive.pieces import Content, Piece
from advrad.archive.places import Entry, open_file, words_of
from advrad.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are read at once; they may hold large images.
_ROWS = 16
_BUFFER_BYTES = 1 << 20


def table_pieces(entry: Entry, column: str) -> Iterator[Piece]:
    """Cut a Parquet file into its row groups.

    Args:
        entry: The file.
        column: Column that holds images.

    Yields:
        Pieces; one that is lost, if the file is damaged.

    Raises:
        ConfigError: There is no such column, or two of them; or it holds no bytes.
        DataError: The file holds no rows, or a bucket does not answer.
    """
    import pyarrow as pa
    from pyarrow import parquet

    name, stamp = entry.name, entry.stamp
    try:
        with open_file(name) as file:
            found = parquet.ParquetFile(file)
            columns = found.schema_arrow
            rows = [found.metadata.row_group(group).num_rows for group in range(found.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        yield Piece("lost", (name,), (stamp,), reason=_damage(error))
        return
    _check_column(columns, column, name)
    if not sum(rows):
        raise DataError(f"{name}: holds no rows; name a file of images")
    for group, count in enumerate(rows):
        if count:
            yield Piece("table", (name,), (stamp,), first=group, column=column, images=count)


def table_contents(piece: Piece, place: str) -> Iterator[Content]:
    """The images of a row group.

    Args:
        piece: The row group.
        place: Where the Parquet file lies.

    Yields:
        Images; a damage is the last of them.

    Raises:
        DataError: A bucket does not answer.
    """
    import pyarrow as pa
    from pyarrow import parquet

    (name,) = piece.names
    try:
        with open_file(place) as file:
            found = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES)
            row = sum(found.metadata.row_group(group).num_rows for group in range(piece.first))
            for batch in found.iter_batches(_ROWS, row_groups=[piece.first], columns=[piece.column]):
                for value in batch.column(piece.column):
                    yield _content(name, row, value.as_py())
                    row += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # pyarrow has no class of its own for damaged pages
        yield Content(name, reason=_damage(error))


def _content(name: str, row: int, value: Any) -> Content:
    """The image of a row; it is named by its own path, or by its number."""
    shown = f"{name}#{row}"
    if isinstance(value, dict):
        shown = f"{name}/{value['path']}" if value.get("path") else shown
        value = value["bytes"]
    return Content(shown, value) if value is not None else Content(shown, reason="the row holds no image")


def _check_column(schema: pa.Schema, column: str, name: str) -> None:
    import pyarrow.types as kinds

    if column not in schema.names:
        raise ConfigError(
            f"{name} has no such column; choose one of {', '.join(schema.names)}", option="image_column", value=column
        )
    if schema.names.count(column) > 1:
        fix = "give each column a name of its own, or choose another"
        raise ConfigError(f"{name} has several columns of this name; {fix}", option="image_column", value=column)
    kind = schema.field(column).type
    if kinds.is_struct(kind) and len({field.name for field in kind}) < kind.num_fields:
        fix = "give each field a name of its own, or choose another column"
        raise ConfigError(
            f"in {name}, this column has several fields of one name; {fix}", option="image_column", value=column
        )
    if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
        raise ConfigError(
            f"in {name}, this column holds {kind}, not the bytes of image files; choose another",
            option="image_column",
            value=column,
        )


def _damage(error: Exception) -> str:
    return f"cannot be read as Parquet ({words_of(error)}); copy it again"
