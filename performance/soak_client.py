"""Sends images to a service from many clients at once, at a rate that does not wait for the answers.

The requests are written to the sockets by hand, because client and service share the cores here: what a client costs,
the service lacks.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

#: Requests that one client has under way at most. A client of a full service is refused at once, so this is not reached
#: unless answers stay away.
UNDER_WAY = 16


@dataclass
class Traffic:
    """What clients sent and got.

    Attributes:
        statuses: Number of answers by status; 0 stands for a connection that broke without an answer.
        accepted: Identities of the inspections whose answer arrived whole.
        seconds: Time from request to answer of each accepted request.
        late: Requests that were not sent, because a client had too many under way.
        began: Time of the first request, by `time.perf_counter`.
        ended: Time of the last accepted answer.
        complaints: Bodies of answers that should not be, at most ten.
        over: Set to send no more, whatever time is left.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    late: int = 0
    began: float = 0.0
    ended: float = 0.0
    complaints: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def rate(self) -> float:
        """Accepted requests for each second."""
        return len(self.accepted) / (self.ended - self.began) if self.ended > self.began else 0.0


class Pictures:
    """Image files that are all different, so that each is stored: a counter stands in a text of the PNG.

    Args:
        files: Contents of PNG files.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        # A PNG ends with an empty chunk of 12 bytes.
        self._parts = [(content[:-12], content[-12:]) for content in files]
        self._numbers = count()

    def next(self) -> bytes:
        """The next file."""
        number = next(self._numbers)
        before, end = self._parts[number % len(self._parts)]
        text = b"tEXtNumber\x00%d" % number
        return before + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + end


class Client:
    """One sender with connections of its own.

    Args:
        port: Port of the service on this machine.
        path: Path that takes the images.
        pictures: The images.
        traffic: Takes the counts.
        headers: Further headers.
    """

    def __init__(self, port: int, path: str, pictures: Pictures, traffic: Traffic, headers: Sequence[str] = ()) -> None:
        self._port, self._pictures, self.traffic = port, pictures, traffic
        lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: image/png", *headers]
        self._head = "\r\n".join(lines).encode() + b"\r\nContent-Length: "
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()

    async def at_rate(self, rate: float, seconds: float) -> None:
        """Send at a rate, whatever is answered.

        Args:
            rate: Requests for each second.
            seconds: Time after which nothing more is sent.
        """
        start = time.perf_counter()
        for number in count():
            due = start + number / rate
            if due - start >= seconds or self.traffic.over.is_set():
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(self._under_way) >= UNDER_WAY:
                self.traffic.late += 1
                continue
            task = asyncio.create_task(self.send())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        await self.finish()

    async def one_by_one(self, seconds: float) -> None:
        """Send the next image when the one before is answered.

        Args:
            seconds: Time after which nothing more is sent.
        """
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and not self.traffic.over.is_set():
            await self.send()
        await self.finish()

    async def finish(self) -> None:
        """Wait for all answers, and close the connections."""
        await asyncio.gather(*self._under_way)
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def send(self) -> None:
        """Send one image and count the answer."""
        began = time.perf_counter()
        try:
            status, body = await self._exchanged()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status, body = 0, b""
        traffic = self.traffic
        traffic.statuses[status] += 1
        if status in (200, 201):
            traffic.ended = time.perf_counter()
            traffic.seconds.append(traffic.ended - began)
            traffic.accepted += [one["id"] for one in json.loads(body)["inspections"]]
        elif status != 503 and len(traffic.complaints) < 10:
            traffic.complaints.append(f"{status}: {body[:300].decode(errors='replace')}")

    async def _exchanged(self) -> tuple[int, bytes]:
        """Send one image over the connection that is idle for the longest time, or a new one."""
        while self._idle and self._idle[0][0].at_eof():
            self._idle.popleft()[1].close()
        reader, writer = self._idle.popleft() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        content = self._pictures.next()
        kept = False
        try:
            writer.write(self._head + b"%d\r\n\r\n" % len(content) + content)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            kept = headers.get("connection") != "close"
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return int(head[0].split()[1]), body


async def _together(clients: Sequence[Client], traffic: Traffic, rate: float | None, seconds: float) -> None:
    traffic.began = time.perf_counter()
    if rate is None:
        await asyncio.gather(*(client.one_by_one(seconds) for client in clients))
    else:
        await asyncio.gather(*(client.at_rate(rate / len(clients), seconds) for client in clients))


def send(
    port: int, path: str, pictures: Pictures, *, clients: int, rate: float | None, seconds: float, traffic: Traffic
) -> None:
    """Send images from several clients at once.

    Args:
        port: Port of the service on this machine.
        path: Path that takes the images.
        pictures: The images.
        clients: Number of clients.
        rate: Requests for each second, of all together; None to send the next when the one before is answered.
        seconds: Time after which nothing more is sent.
        traffic: Takes what was sent and answered, also while this runs.
    """
    senders = [Client(port, path, pictures, traffic) for _ in range(clients)]
    asyncio.run(_together(senders, traffic, rate, seconds))
