"""Reading from and writing to the terminal or pipe in which a command runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def stdin_is_piped() -> bool:
    """Whether standard input comes from a pipe or a file; not if it is a terminal or closed."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def paths_from_stdin() -> Iterator[Path]:
    """Read paths from standard input, one per line, and yield each at once."""
    stream = getattr(sys.stdin, "buffer", None)
    for line in stream if stream is not None else sys.stdin:
        name = os.fsdecode(line).rstrip("\r\n")
        if name:
            yield Path(name)


def printable(text: str, encoding: str = "utf-8") -> str:
    """Escape the characters that an encoding cannot express, since names of files need not be valid text.

    Args:
        text: Any text.
        encoding: Name of the encoding.

    Example:
        >>> printable("bolt 5 µm", "latin-1")
        'bolt 5 µm'
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def put(line: str) -> None:
    """Print a line on standard output at once, without buffering."""
    print(printable(line, sys.stdout.encoding or "utf-8"), flush=True)


def put_json(values: Mapping[str, Any]) -> None:
    """Print JSON values on standard output, indented."""
    put(json.dumps(values, indent=2, allow_nan=False))


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error, one line each."""
    for text in texts:
        print(f"advrad: warning: {text}", file=sys.stderr, flush=True)


def give_up_stdout() -> None:
    """Discard what is still buffered for standard output; otherwise Python reports the closed pipe again at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_first_process() -> bool:
    """Whether this is the first of several processes that work together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def open_page(page: Path) -> None:
    """Open a page in the web browser, if there is one.

    Args:
        page: The HTML file.
    """
    import webbrowser

    with suppress(webbrowser.Error, OSError):
        webbrowser.open(page.resolve().as_uri())
