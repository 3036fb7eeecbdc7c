"""Inspects what lands in a folder: each content under each name once, whatever happens in between.

The history decides what is new, in the transaction that stores an inspection: its key is made of the product, the path
and the content. So a restart, a crash, a second watcher or a clock that is set back change nothing. What this module
remembers in memory only spares it to read files twice. An inspection that a person deletes frees its file: where it is
still in the folder, it is inspected again at the next start.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from advrad.errors import AdvradError, ConfigError, ImageError
from advrad.serving.errors import ModelFailed, QueueFull
from advrad.serving.records import Inspection, InspectionAnswer, InspectionRequest
from advrad.serving.store import source_key
from advrad.serving.watching.arrivals import Arrival, Arrivals
from advrad.serving.watching.files import SetAside, move, read_whole, shown
from advrad.serving.watching.options import WatchOptions
from advrad.serving.watching.scanning import Scanner

UNREADABLE = "unreadable"
"""Name of the folder, beside the history, of files that are no images."""

PROGRESS_S = 60.0
"""Seconds between two reports of the counts, while they change."""

WINDOW_BYTES = 128_000_000
"""Bytes of images that are handed over at once; one more image may come on top."""

_WINDOW = 16
_LONGEST_WAIT_S = 60.0
_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """What a watched folder has come to since it is watched.

    Attributes:
        inspected: Files that were inspected.
        defective: Those of them that are called defective.
        known: Files that the history or the folder of unreadable files held already.
        set_aside: Files that were set aside.
        moved: Files that were moved.
        unfinished: Files that wait.
        others: Files in the folder that are no images.
    """

    inspected: int = 0
    defective: int = 0
    known: int = 0
    set_aside: int = 0
    moved: int = 0
    unfinished: int = 0
    others: int = 0


class WatchReporter(Protocol):
    """Is told what happens in a watched folder."""

    def inspected(self, path: Path, inspection: Inspection) -> None:
        """A file was inspected, and the history holds it."""

    def set_aside(self, path: Path, reason: str, text: Path) -> None:
        """A file is no whole image; the text says why."""

    def note(self, text: str) -> None:
        """Something else that a person should know, in one line."""

    def progress(self, summary: WatchSummary) -> None:
        """The counts have changed."""


class Stop(Protocol):
    """Says whether to end; such as :class:`threading.Event`."""

    def is_set(self) -> bool:
        """Whether to end."""

    def wait(self, timeout: float, /) -> bool:
        """Wait until it is set, or for so many seconds; returns whether it is set."""


class Inspector(Protocol):
    """What inspects images, see :class:`advrad.serving.inspecting.InspectionService`."""

    def submit(self, request: InspectionRequest, *, patient: bool = False) -> Future[InspectionAnswer]:
        """Take an image in."""


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A file that is being inspected."""

    arrival: Arrival
    path: Path
    content: bytes
    key: str


class Watcher:
    """Watches a folder.

    Args:
        folder: Folder to watch.
        product: Name of the product.
        inspector: Inspects the images; the history that it writes to is the one of ``is_known``.
        is_known: Function that says whether the history holds a key.
        out: Folder of the history; unreadable files are copied into a folder below.
        options: Options.
        reporter: Is told what happens.
    """

    def __init__(
        self,
        folder: Path,
        product: str,
        inspector: Inspector,
        is_known: Callable[[str], bool],
        out: Path,
        options: WatchOptions,
        reporter: WatchReporter,
    ) -> None:
        self._folder, self._product, self._options = folder, product, options
        self._inspector, self._is_known, self._reporter = inspector, is_known, reporter
        # The path as it was given: where a share is mounted elsewhere, its files are other files.
        self._base = os.path.abspath(folder)
        self._aside = SetAside(out / UNREADABLE)
        kept_out = [out] if options.move_to is None else [out, options.move_to]
        self._scanner = Scanner(folder, options.patterns, kept_out)
        self._arrivals = Arrivals(options.settle_s)
        self._work: dict[Future[InspectionAnswer], _Work] = {}
        self._counts: dict[str, int] = dict.fromkeys(WatchSummary.__dataclass_fields__, 0)
        self._next_look_s = self._next_report_s = 0.0
        #: Trouble that concerns all files: how often in a row, and until when nothing is tried.
        self._troubles, self._pause_until_s = 0, 0.0
        self._gone = False
        self._told: set[str] = set()
        self._reported = WatchSummary()

    @property
    def summary(self) -> WatchSummary:
        """What was done so far."""
        now = {"unfinished": self._arrivals.unfinished, "others": self._scanner.others}
        return WatchSummary(**self._counts | now)

    def run(self, stop: Stop) -> WatchSummary:
        """Watch until told to stop; what was handed over by then is finished.

        Args:
            stop: Is set to end.

        Returns:
            What was done.
        """
        self._next_report_s = time.monotonic() + PROGRESS_S
        while not stop.is_set():
            now_s = time.monotonic()
            if now_s >= self._next_look_s:
                self._look(now_s)
            self._take(stop)
            self._collect(_TICK_S if self._work else 0.0)
            self._report(now_s)
            if self._options.once and not self._gone and not self._work and not self._arrivals.unfinished:
                break
            if not self._work:
                stop.wait(min(_TICK_S, self._options.poll_s))
        if stop.is_set():
            self._reporter.note("finishing what was taken")
        while self._work:
            self._collect(_TICK_S)
        return self.summary

    def _look(self, begun_s: float) -> None:
        """Look at the folder."""
        try:
            found = self._scanner.look()
        except OSError as error:
            self._next_look_s = time.monotonic() + self._options.poll_s
            if not self._gone:
                reason = error.strerror or type(error).__name__
                self._reporter.note(f"{shown(self._folder)}: cannot be listed ({reason}); waiting for it to come back")
            self._gone = True
            return
        if self._gone:
            self._gone = False
            self._reporter.note(f"{shown(self._folder)}: is back")
        for name, reason in self._scanner.problems.items():
            self._tell(f"{shown(self._folder / name)}: cannot be listed ({reason}); its files are not inspected")
        now_s = time.monotonic()
        self._arrivals.update(found, now_s)
        for name in self._arrivals.restless(max(self._options.give_up_s, 2 * self._options.settle_s), now_s):
            least = f"it must stay as it is for {self._options.settle_s:g} s (settle_s)"
            self._tell(f"{shown(self._folder / name)}: changes all the time and is not inspected; {least}")
        # A large folder on a slow share is not listed all the time.
        self._next_look_s = now_s + max(self._options.poll_s, 5 * (now_s - begun_s))

    def _take(self, stop: Stop) -> None:
        """Hand over files whose time has come, as many as there is room for."""
        while not stop.is_set():
            now_s = time.monotonic()
            if now_s < self._pause_until_s or now_s >= self._next_look_s:
                return
            if len(self._work) >= _WINDOW or sum(len(work.content) for work in self._work.values()) > WINDOW_BYTES:
                return
            arrival = self._arrivals.next(now_s)
            if arrival is None:
                return
            try:
                self._hand_over(arrival)
            except QueueFull:
                self._arrivals.again(arrival, now_s + _TICK_S)
                return
            except ConfigError:
                raise
            except AdvradError as error:
                self._trouble(arrival, error)
            self._collect(0.0)

    def _hand_over(self, arrival: Arrival) -> None:
        path = self._folder / arrival.name
        if arrival.stamp.size > self._options.max_file_bytes:
            size, most = arrival.stamp.size / 1e6, self._options.max_file_mb
            reason = f"has {size:.3g} MB, more than the limit of {most:g} MB (max_file_mb); raise the limit"
            self._not_whole(arrival, path, None, reason)
            return
        try:
            content = read_whole(path, arrival.stamp)
        except OSError as error:
            self._not_whole(arrival, path, None, f"cannot be read ({error.strerror or type(error).__name__})")
            return
        if content is None:
            self._arrivals.changed(arrival)
            return
        key = self._key(arrival, hashlib.sha256(content).hexdigest())
        if self._aside.holds(key):
            self._finish(arrival, "known", lambda: move(path, arrival.stamp, self._aside.place_of(path, key), key))
        elif self._is_known(key):
            if arrival.sent:  # the answer was lost, the inspection was not
                self._counts["inspected"] += 1
            self._finish(arrival, "known", lambda: self._move_inspected(path, arrival, key))
        else:
            name = os.fsencode(arrival.name).decode("utf-8", "replace")
            request = InspectionRequest(
                self._product,
                content,
                name,
                station=self._options.station,
                certify=self._options.certify,
                source=key,
            )
            arrival.sent = True
            self._work[self._inspector.submit(request, patient=True)] = _Work(arrival, path, content, key)

    def _key(self, arrival: Arrival, content: str) -> str:
        return source_key(self._product, f"{self._base}/{arrival.name}", content)

    def _collect(self, timeout_s: float) -> None:
        """Take in what is inspected."""
        if not self._work:
            return
        for future in wait(self._work, timeout_s, FIRST_COMPLETED).done:
            work = self._work.pop(future)
            try:
                answer = future.result()
            except ImageError as error:
                self._not_whole(work.arrival, work.path, work, error.reason)
            except Exception as error:  # a defect concerns this image; the others are to be inspected all the same
                self._trouble(work.arrival, error)
            else:
                self._was_inspected(work, answer)

    def _was_inspected(self, work: _Work, answer: InspectionAnswer) -> None:
        self._works_again()
        if not answer.known:
            self._counts["inspected"] += 1
            self._counts["defective"] += answer.inspection.defective
            self._reporter.inspected(work.path, answer.inspection)
        self._finish(
            work.arrival,
            "known" if answer.known else None,
            lambda: self._move_inspected(work.path, work.arrival, work.key),
        )

    def _move_inspected(self, path: Path, arrival: Arrival, key: str) -> bool:
        folder = self._options.move_to
        return folder is not None and move(path, arrival.stamp, folder / arrival.name, key)

    def _finish(self, arrival: Arrival, counter: str | None, move_it: Callable[[], bool]) -> None:
        """Note that a file is done, and move it if that is wanted."""
        if counter is not None:
            self._counts[counter] += 1
        self._arrivals.done(arrival)
        if self._options.move_to is None:
            return
        try:
            self._counts["moved"] += move_it()
        except AdvradError as error:
            self._tell(f"{error}; it stays, and is not inspected again")

    def _not_whole(self, arrival: Arrival, path: Path, work: _Work | None, reason: str) -> None:
        """Look at a file again later, or set it aside if it has not changed for too long."""
        now_s = time.monotonic()
        end_s = arrival.since_s + max(self._options.give_up_s, self._options.settle_s)
        if now_s < end_s:
            pause_s = min(_LONGEST_WAIT_S, max(0.5, self._options.settle_s) * 2.0 ** min(arrival.tries - 1, 10))
            self._arrivals.again(arrival, min(end_s, now_s + pause_s))
            return
        # What could not be read is known by its stamp: it is looked at again when that changes.
        key = self._key(arrival, repr(tuple(arrival.stamp))) if work is None else work.key
        if self._aside.holds(key):
            self._arrivals.done(arrival)
            self._counts["known"] += 1
            return
        stays = self._options.move_to is None
        try:
            text = self._aside.put(path, work.content if work is not None and stays else None, reason, key)
        except AdvradError as error:
            self._trouble(arrival, error)
            return
        self._reporter.set_aside(path, reason, text)
        self._finish(arrival, "set_aside", lambda: move(path, arrival.stamp, self._aside.place_of(path, key), key))

    def _trouble(self, arrival: Arrival, error: Exception) -> None:
        """Try a file again after something went wrong that is not the file's fault."""
        now_s, words = time.monotonic(), " ".join(str(error).split())
        if isinstance(error, AdvradError) and not isinstance(error, ModelFailed):
            # The disk or the database: nothing is tried for a while.
            self._troubles += 1
            self._pause_until_s = now_s + min(_LONGEST_WAIT_S, 0.25 * 2.0 ** min(self._troubles, 10))
            self._arrivals.again(arrival, now_s)
            self._tell(f"{words}; it is tried again")
            return
        self._arrivals.again(arrival, now_s + min(_LONGEST_WAIT_S, 0.5 * 2.0 ** min(arrival.tries, 10)))
        kind = "" if isinstance(error, AdvradError) else f"{type(error).__name__}: "
        self._tell(f"{shown(self._folder / arrival.name)}: {kind}{words}; it is tried again")

    def _works_again(self) -> None:
        if self._troubles:
            self._troubles, self._pause_until_s = 0, 0.0
            self._told.clear()
            self._reporter.note("works again")

    def _tell(self, text: str) -> None:
        """Tell a trouble, once until it is over."""
        if text not in self._told:
            self._told.add(text)
            self._reporter.note(text)

    def _report(self, now_s: float) -> None:
        if now_s < self._next_report_s:
            return
        self._next_report_s = now_s + PROGRESS_S
        summary = self.summary
        if summary != self._reported:
            self._reported = summary
            self._reporter.progress(summary)
