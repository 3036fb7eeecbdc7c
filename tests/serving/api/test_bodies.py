from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from advrad.errors import AdvradError
from advrad.serving.api.bodies import Bodies
from advrad.serving.errors import QueueFull, Stopping

PICTURES = "/v1/products/screws/inspections"


class Taking:
    """An app that reads the body whole, and remembers how much it got."""

    def __init__(self) -> None:
        self.got = 0
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        more = True
        while more:
            message = await receive()
            self.got += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def ask(
    app: Bodies, pieces: list[bytes], *, path: str = PICTURES, length: int | None = None, pause_s: float = 0.0
) -> tuple[int, dict[str, str], bytes, int]:
    """Send a body in pieces; returns status, headers and body of the answer, and how many pieces were read."""
    return asyncio.run(asking(app, pieces, path, length, pause_s))


async def asking(
    app: Callable[..., Awaitable[None]], pieces: list[bytes], path: str, length: int | None, pause_s: float = 0.0
) -> tuple[int, dict[str, str], bytes, int]:
    left = list(pieces)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_s)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "state": {}}
    await app(scope, receive, send)
    named = {key.decode().lower(): value.decode() for key, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], named, body, len(pieces) - len(left)


#: More seconds than any body takes here.
LONG_S = 60.0


def limited(app: Any, largest: int, seconds: float, held: int, error: AdvradError | None = None) -> Bodies:
    """The layer around an app; the error says that no image can be taken now."""

    def check_room() -> None:
        if error is not None:
            raise error

    return Bodies(app, largest, seconds, held, check_room)


def test_a_body_within_the_limits_goes_through() -> None:
    inner = Taking()
    status, _, _, _ = ask(limited(inner, 100, LONG_S, 100), [b"x" * 50, b"x" * 50])
    assert (status, inner.got) == (201, 100)


def test_an_announced_body_that_is_too_large_is_refused_unread() -> None:
    inner = Taking()
    status, headers, body, read = ask(limited(inner, 100, LONG_S, 1000), [b"x" * 101], length=101)
    assert (status, read, inner.calls) == (413, 0, 0)
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("length", [None, 5, -7])
def test_a_body_is_counted_while_it_arrives_whatever_was_announced(length: int | None) -> None:
    inner = Taking()
    status, headers, _, read = ask(limited(inner, 100, LONG_S, 1000), [b"x" * 60] * 50, length=length)
    assert (status, read) == (413, 2)
    assert headers["connection"] == "close"
    assert inner.got == 60


def test_other_addresses_take_small_bodies_only() -> None:
    app = limited(Taking(), 50_000_000, LONG_S, 50_000_000)
    assert ask(app, [b"x" * 1_000_001], path="/v1/inspections/1/review")[0] == 413


def test_a_slow_body_is_ended() -> None:
    inner = Taking()
    status, headers, body, _ = ask(limited(inner, 1000, 0.05, 1000), [b"x"] * 100, pause_s=0.02)
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body)["error"]["code"] == "body_too_slow"
    assert inner.got < 10


def test_all_bodies_together_fit_the_memory_and_leave_it_again() -> None:
    app = limited(Taking(), 100, LONG_S, 150)

    async def both() -> list[int]:
        answers = await asyncio.gather(*(asking(app, [b"x" * 100], PICTURES, 100, 0.01) for _ in range(3)))
        return sorted(answer[0] for answer in answers)

    assert asyncio.run(both()) == [201, 503, 503]
    assert ask(app, [b"x" * 100], length=100)[0] == 201


def test_a_full_memory_says_when_to_come_again() -> None:
    status, headers, body, _ = ask(limited(Taking(), 100, LONG_S, 50), [b"x" * 60])
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(body)["error"]["code"] == "queue_full"


def test_what_an_app_makes_of_half_a_body_is_no_answer() -> None:
    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        try:
            while True:
                await receive()
        except Exception:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    status, _, body, _ = ask(limited(hasty, 100, LONG_S, 1000), [b"x" * 60] * 3)
    assert status == 413 and b"fine" not in body


FULL = QueueFull("64 images wait already", "send the image again in a moment", 3)


def test_where_no_image_can_be_taken_a_body_is_read_to_its_end_and_forgotten() -> None:
    inner = Taking()
    app = limited(inner, 1000, LONG_S, 100, FULL)
    status, headers, body, read = ask(app, [b"x" * 60] * 10, length=600)
    assert (status, read, inner.calls) == (503, 10, 0)
    assert headers["retry-after"] == "3" and "connection" not in headers
    assert json.loads(body)["error"]["code"] == "queue_full"


def test_a_service_that_stops_says_so_before_it_reads_a_body_into_memory() -> None:
    app = limited(Taking(), 1000, LONG_S, 100, Stopping("the service stops", "send the image again when it is back"))
    status, _, body, read = ask(app, [b"x" * 60] * 10)
    assert (status, read, json.loads(body)["error"]["code"]) == (503, 10, "stopping")


@pytest.mark.parametrize(("length", "read"), [(1001, 0), (None, 11)])
def test_what_is_forgotten_is_limited_too(length: int | None, read: int) -> None:
    status, headers, _, pieces = ask(limited(Taking(), 1000, LONG_S, 100, FULL), [b"x" * 100] * 20, length=length)
    assert (status, headers["connection"], pieces) == (413, "close", read)


def test_a_slow_body_that_is_forgotten_is_ended() -> None:
    status, headers, _, _ = ask(limited(Taking(), 1000, 0.05, 1000, FULL), [b"x"] * 100, pause_s=0.02)
    assert (status, headers["connection"]) == (408, "close")


def test_what_brings_no_image_is_answered_while_no_image_can_be_taken() -> None:
    assert ask(limited(Taking(), 1000, LONG_S, 100, FULL), [b"{}"], path="/v1/inspections/1/review")[0] == 201
