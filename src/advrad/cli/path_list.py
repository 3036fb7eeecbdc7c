"""A list of paths on standard input, see :mod:`advrad.data.path_lists`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from advrad.data.path_lists import existing_name, names_in
from advrad.errors import DataError


def paths_from_stdin() -> Iterator[Path]:
    """Read paths from standard input, and yield each as soon as it was read.

    Raises:
        DataError: Standard input cannot be read, or names nothing.
    """
    empty = True
    try:
        for name in _names():
            empty = False
            yield Path(name)
    except OSError as error:
        raise DataError(f"standard input: cannot be read ({error.strerror or error}); name images or folders") from None
    if empty:
        raise DataError("standard input: names no image; pipe in paths, one per line, or name images or folders")


def _names() -> Iterator[str]:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is not None:
        yield from names_in(stream)
        return
    for line in sys.stdin:  # a text in place of standard input, as tests and notebooks set it
        if (name := existing_name(line.strip("\r\n\v\f"))) is not None:
            yield name
