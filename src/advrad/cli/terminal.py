"""Lines from and to the terminal or pipe that a command was started in, and what else is known of that place."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def paths_from_stdin() -> Iterator[Path]:
    """Paths from standard input, one per line, as they come."""
    stream = getattr(sys.stdin, "buffer", None)
    for line in stream if stream is not None else sys.stdin:
        name = os.fsdecode(line).rstrip("\r\n")
        if name:
            yield Path(name)


def printable(text: str, encoding: str = "utf-8") -> str:
    """The text with escapes for what the encoding lacks: names of files need not be valid text."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def put(line: str) -> None:
    """Print a line on standard output at once, for whoever waits at the other end of a pipe."""
    print(printable(line, sys.stdout.encoding or "utf-8"), flush=True)


def put_json(values: Mapping[str, Any]) -> None:
    """Print plain JSON values on standard output, indented."""
    put(json.dumps(values, indent=2, allow_nan=False))


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error, a line for each."""
    for text in texts:
        print(f"advrad: warning: {text}", file=sys.stderr, flush=True)


def give_up_stdout() -> None:
    """Send what is still buffered nowhere; Python would complain of it once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_first_process() -> bool:
    """Whether this is the first of several processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def open_page(page: Path) -> None:
    """Show a page to somebody who sits at this machine."""
    shown = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if shown and sys.stdout.isatty() and "SSH_CONNECTION" not in os.environ:
        import webbrowser

        with suppress(webbrowser.Error, OSError):
            webbrowser.open(page.resolve().as_uri())
