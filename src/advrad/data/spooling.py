"""The content of an image file that lies in memory, as a file: images are decoded from files alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from advrad.data.signatures import RAW_SUFFIXES
from advrad.errors import OutputError
from advrad.utils.files import explain


@contextmanager
def spooled(content: bytes, name: str) -> Iterator[Path]:
    """Put the content of an image file where it can be read, and take it away again.

    Args:
        content: Content of the file.
        name: Name of the image. Only its ending is used, and only one of raw camera files.

    Yields:
        A temporary file.

    Raises:
        OutputError: The disk of temporary files does not work.

    Example:
        >>> with spooled(b"GIF89a", "part.gif") as path:
        ...     path.read_bytes()
        b'GIF89a'
        >>> path.exists()
        False
    """
    ending = Path(name).suffix.lower()
    try:
        number, file_name = tempfile.mkstemp(prefix="advrad-", suffix=ending if ending in RAW_SUFFIXES else "")
        path = Path(file_name)
        try:
            with open(number, "wb") as file:
                file.write(content)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise OutputError(f"{tempfile.gettempdir()}: no temporary file can be written: {explain(error)}") from None
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
