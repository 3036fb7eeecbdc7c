"""Reading from and writing to the terminal or pipe in which a command runs.

A service may run a command with standard input, output or error closed. The command then works as if they were
connected to nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO


def open_closed_streams() -> None:
    """Connect standard streams that are closed to nothing.

    Otherwise the next file that is opened takes their place, and what is printed would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def stdin_is_piped() -> bool:
    """Whether standard input comes from a pipe or a file; not if it is a terminal or closed."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


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


def with_options(text: str) -> str:
    """Write what the library advises to give as the command line's option.

    Args:
        text: Any text.

    Example:
        >>> with_options("with values of 12 bits, give value_range 4095")
        'with values of 12 bits, give --value-range 4095'
    """
    return re.sub(r"(?<![\"\w./-])value_range(?![\"\w./=-])", "--value-range", text)


def put(line: str) -> None:
    """Print a line on standard output at once, without buffering."""
    print(printable(with_options(line), sys.stdout.encoding or "utf-8"), flush=True)


def put_json(values: Mapping[str, Any]) -> None:
    """Print JSON values on standard output, indented."""
    put(json.dumps(values, indent=2, allow_nan=False))


def say(text: str) -> None:
    """Print a line on standard error at once. Nobody need read it: work goes on if its reader has ended."""
    try:
        print(printable(with_options(text), sys.stderr.encoding or "utf-8"), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _give_up(sys.stderr)


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error, one line each."""
    for text in texts:
        say(f"advrad: warning: {text}")


@contextmanager
def prints_aside() -> Iterator[None]:
    """Send what a user's own code prints in the block to standard error, so that results stay readable for programs."""
    with redirect_stdout(sys.stderr):
        yield


def give_up_stdout() -> None:
    """Discard what is still buffered for standard output; otherwise Python reports the closed pipe again at exit."""
    _give_up(sys.stdout)


def _give_up(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
