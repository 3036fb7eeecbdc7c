"""When a file that has arrived is to be looked at: after it has settled, and again while it is no whole image."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from advrad.serving.watching.scanning import Stamp


@dataclass(slots=True, eq=False)
class Arrival:
    """A file in the watched folder.

    Times are seconds of a clock that nobody sets back.

    Attributes:
        name: Path relative to the folder.
        stamp: Its stamp.
        since_s: Time at which the stamp was first seen.
        restless_s: Time at which it was first seen since it was last at rest.
        tries: Number of times that it was looked at with this stamp.
        sent: Whether it was handed over to be inspected, so that the history may hold it already.
        state: ``waiting`` for its time, ``busy`` while it is looked at, ``done``.
    """

    name: str
    stamp: Stamp
    since_s: float
    restless_s: float
    tries: int = 0
    sent: bool = False
    state: Literal["waiting", "busy", "done"] = "waiting"


class Arrivals:
    """All files of the watched folder that are known, and the order in which they are looked at.

    Args:
        settle_s: Seconds for which a stamp must not change before a file is looked at.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._files: dict[str, Arrival] = {}
        #: Waiting files by time, then by their own time: what was written first comes first.
        self._queue: list[tuple[float, int, int, Arrival]] = []
        self._number = count()

    def update(self, found: Mapping[str, Stamp], now_s: float) -> None:
        """Take in what is in the folder now.

        Args:
            found: Stamps by name.
            now_s: Time.
        """
        for name in self._files.keys() - found.keys():
            self._files.pop(name).state = "done"
        for name, stamp in found.items():
            known = self._files.get(name)
            if known is None or (known.stamp != stamp and known.state != "busy"):
                restless_s = now_s
                if known is not None:
                    if known.state == "waiting" and not known.tries:
                        restless_s = known.restless_s
                    known.state = "done"  # what is queued of it counts no more
                self._files[name] = arrival = Arrival(name, stamp, now_s, restless_s)
                self._put(arrival, now_s + self._settle_s)

    def next(self, now_s: float) -> Arrival | None:
        """Take the next file that is to be looked at; it is busy from then on.

        Args:
            now_s: Time.

        Returns:
            The file; None if none is due.
        """
        while self._queue and self._queue[0][0] <= now_s:
            arrival = heapq.heappop(self._queue)[3]
            if arrival.state == "waiting":
                arrival.state = "busy"
                arrival.tries += 1
                return arrival
        return None

    def again(self, arrival: Arrival, at_s: float) -> None:
        """Look at a busy file again later.

        Args:
            arrival: The file.
            at_s: Time.
        """
        if self._files.get(arrival.name) is arrival:
            arrival.state = "waiting"
            self._put(arrival, at_s)

    def changed(self, arrival: Arrival) -> None:
        """Forget a busy file that is no longer as it was; the next look at the folder finds it as it is then.

        Args:
            arrival: The file.
        """
        arrival.state = "done"
        if self._files.get(arrival.name) is arrival:
            del self._files[arrival.name]

    def done(self, arrival: Arrival) -> None:
        """Note that nothing more is to be done with a file, unless it changes.

        Args:
            arrival: The file.
        """
        arrival.state = "done"

    def restless(self, for_s: float, now_s: float) -> list[str]:
        """Names of files that have changed all the time, so that they were never looked at.

        Args:
            for_s: Seconds for which they have.
            now_s: Time.
        """
        return [
            one.name
            for one in self._files.values()
            if one.since_s == now_s and one.state == "waiting" and now_s - one.restless_s > for_s
        ]

    @property
    def unfinished(self) -> int:
        """Number of files with which something is still to be done."""
        return sum(arrival.state != "done" for arrival in self._files.values())

    def _put(self, arrival: Arrival, at_s: float) -> None:
        heapq.heappush(self._queue, (at_s, arrival.stamp.mtime_ns, next(self._number), arrival))
