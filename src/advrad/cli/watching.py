"""The command that watches a folder."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advrad.cli.options import add_command
from advrad.cli.serving import extra
from advrad.cli.terminal import printable, put, say
from advrad.serving.settings import ServeSettings, named_runs
from advrad.serving.watching.options import WatchOptions

if TYPE_CHECKING:
    from types import FrameType

    from advrad.serving.records import Inspection
    from advrad.serving.watching.watcher import WatchSummary

app = typer.Typer(rich_markup_mode=None)

_LOOK_S = 0.05
_FROM_SETTINGS = {"db", "sinks", "device", "max_pixels", "keep_days", "keep_gb"}


@add_command(app, only=_FROM_SETTINGS | WatchOptions.model_fields.keys())
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder in which images land, with those below it.")],
    *,
    model: Annotated[
        str,
        typer.Option(metavar="[NAME=]RUN", help="Model or export, with the name of its product, or the folder's name."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help="Folder for the history, the images and unreadable files."),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines on a terminal too; in a pipe they are the default.")
    ] = False,
    options: WatchOptions,
    settings: ServeSettings,
) -> None:
    """Inspect each image that lands in a folder, once.

    Prints one line per image, as 'advrad predict' does; the verdict is in the history before it is printed. Sinks,
    history and drift alarm are those of 'advrad serve', which shows the history with --data OUT.

    A file is inspected once, also across restarts and crashes. The same content under another name is another part. A
    file with new content is inspected again. Files that are still being written are waited for. What is no whole image
    after a while is copied to OUT/unreadable, beside a text that says why; remove the text to have it looked at again
    at the next start. The files themselves stay as they are, unless --move-to is given.

    Ctrl-C or SIGTERM ends: what was taken is finished first. Needs the extra: pip install 'advrad[serve]'.

    Example: advrad watch camera --model run -o inspections
    """
    with extra():
        from advrad.serving.watching.running import watch as run_watch

    ((product, run),) = named_runs([model]).items()
    printer = _Printer(as_json)
    with _stopping() as stop, _logged_as_lines():
        summary = run_watch(folder, product, run, settings.model_copy(update={"data": output}), options, printer, stop)
    printer.progress(summary)


class _Printer:
    """Prints inspections on standard output, and everything else on standard error.

    Args:
        as_json: Whether to print JSON on a terminal, too.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json or not sys.stdout.isatty()

    def inspected(self, path: Path, inspection: Inspection) -> None:
        """Print an inspection."""
        if self._as_json:
            values = {
                "path": str(path),
                "score": inspection.score,
                "threshold": inspection.threshold,
                "verdict": inspection.verdict,
                "defective": inspection.defective,
                "id": inspection.id,
            }
            put(json.dumps(values | inspection.details, allow_nan=False))
            return
        first, comma, rest = inspection.verdict.partition(",")
        words = (first.upper() if inspection.defective else first) + comma + rest
        score = "     none" if inspection.score is None else f"{inspection.score:9.4g}"
        put(f"{words:9}  score {score}  threshold {inspection.threshold:9.4g}  {_one_line(path)}")

    def set_aside(self, path: Path, reason: str, text: Path) -> None:
        """Print that a file was set aside."""
        if self._as_json:
            put(json.dumps({"path": str(path), "error": reason, "set_aside": str(text)}))
        else:
            say(f"set aside: {_one_line(path)}: {reason}; see {text}")

    def note(self, text: str) -> None:
        """Print something that a person should know."""
        say(f"advrad: {text}")

    def progress(self, summary: WatchSummary) -> None:
        """Print the counts."""
        parts = [f"{summary.inspected} inspected, {summary.defective} defective"]
        parts += [f"{summary.set_aside} set aside"] * bool(summary.set_aside)
        parts += [f"{summary.moved} moved"] * bool(summary.moved)
        parts += [f"{summary.known} known before"] * bool(summary.known)
        parts += [f"{summary.unfinished} waiting"] * bool(summary.unfinished)
        parts += [f"{summary.others} no images"] * bool(summary.others)
        say(f"advrad: {'; '.join(parts)}")


def _one_line(path: Path) -> str:
    from advrad.serving.watching.files import shown

    return shown(path)


class _Asked:
    """Whether somebody asked to stop.

    Setting it takes no lock, as that of an event does: a signal is handled between any two steps of the main thread,
    also while that holds the lock in which it waits, and would then wait for itself for ever.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Ask."""
        self._set = True

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._set

    def wait(self, timeout_s: float) -> bool:
        """Wait until somebody asks, or for so many seconds; returns whether somebody did."""
        end_s = time.monotonic() + timeout_s
        while not self._set and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_S))
        return self._set


@contextmanager
def _stopping() -> Iterator[_Asked]:
    """What the first Ctrl-C or SIGTERM sets; the second one interrupts."""
    stop = _Asked()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logged_as_lines() -> Iterator[None]:
    """Print what the parts of the service log as plain lines on standard error."""
    import structlog

    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(
        processors=[structlog.processors.format_exc_info, _log_line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *names: _Lines(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
        if before is not None:
            structlog.configure(**before)


def _log_line(logger: Any, level: str, values: Any) -> str:
    """A logged event as a line: its name, and its values."""
    trace = values.pop("exception", "")
    event = values.pop("event", "")
    facts = ", ".join(f"{value}" for value in values.values())
    line = printable(f"{event}: {facts}" if facts else str(event))
    return f"{line}\n{trace}" if trace else line


class _Lines:
    """Takes the lines of structlog."""

    def msg(self, line: str) -> None:
        """Print a line."""
        say(f"advrad: {line}")

    debug = info = warning = error = critical = exception = fatal = msg
