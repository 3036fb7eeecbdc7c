"""Limits on the bodies of requests, counted while they arrive: size, time, and the memory of all of them together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advrad.serving.api.failures import Refusal, answer_of
from advrad.serving.errors import QueueFull, Stopping

_LARGE = re.compile(r"/v1/products/[^/]+/inspections|/v2/models/[^/]+(/versions/[^/]+)?/infer")
_SMALL_BODY = 1_000_000
_CLOSE = {"Connection": "close"}


class Bodies:
    """The layer that lets bodies in up to the limits.

    Bodies are read after the key was checked, so strangers cannot fill the memory. Where no image can be taken now, the
    body is read and forgotten, and nothing else is done for it, so that a flood of images costs little. After any other
    refusal the connection is closed: what the client still sends is not read.

    Args:
        app: The app inside.
        largest: Largest body in bytes, where images are taken; 1 MB elsewhere.
        seconds: Seconds within which a body must arrive.
        held: Most bytes of bodies in memory at once.
        check_room: Raises :class:`QueueFull` or :class:`Stopping` where no image can be taken now.
    """

    def __init__(self, app: ASGIApp, largest: int, seconds: float, held: int, check_room: Callable[[], object]) -> None:
        self.app, self.largest, self.seconds, self.most = app, largest, seconds, held
        self._check_room = check_room
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        takes_images = scope["method"] == "POST" and _LARGE.fullmatch(scope["path"])
        body = _Body(self, receive, self.largest if takes_images else min(_SMALL_BODY, self.largest))
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            # What the app makes of a body that was cut off is no answer.
            if body.refusal is not None and not started:
                return
            started = True
            await send(message)

        try:
            if takes_images and (refusal := self._without_room()):
                await body.forget(_length(scope))
                await answer_of(refusal)(scope, receive, send)
                return
            body.announce(_length(scope))
            await self.app(scope, body.receive, sent)
        except (Refusal, QueueFull) as error:
            body.refusal = body.refusal or error
        finally:
            self._held -= body.held
        if body.refusal is not None and not started:
            answer = answer_of(body.refusal)
            answer.headers.update(_CLOSE)
            await answer(scope, receive, send)

    def _without_room(self) -> QueueFull | Stopping | None:
        """Why no image can be taken now."""
        try:
            self._check_room()
        except (QueueFull, Stopping) as error:
            return error
        return None

    def hold(self, more: int) -> None:
        """Take memory for bytes of a body.

        Args:
            more: Number of bytes.

        Raises:
            QueueFull: The memory for bodies is in use.
        """
        if self._held + more > self.most:
            raise QueueFull("the requests in work fill the memory for them", "send the request again in a moment")
        self._held += more


class _Body:
    """The body of one request while it arrives."""

    def __init__(self, bodies: Bodies, receive: Receive, largest: int) -> None:
        self._bodies, self._receive, self._largest = bodies, receive, largest
        self._ends: float | None = None
        self._arrived = self.held = 0
        self._keeps = True
        self.refusal: Refusal | QueueFull | None = None

    def announce(self, length: int) -> None:
        """Take the memory for a body of a known length, or refuse it before it is read."""
        self._check(length)

    async def forget(self, length: int) -> None:
        """Read a body of a known length, and keep nothing of it. A client that gets its answer before is cut off."""
        self._keeps = False
        self._check(length)
        while (await self.receive()).get("more_body", False):
            pass

    async def receive(self) -> Message:
        """The next piece of the body."""
        if self._ends is None:
            self._ends = asyncio.get_running_loop().time() + self._bodies.seconds
        if self._arrived < 0:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            self._refuse(
                Refusal(
                    408,
                    "body_too_slow",
                    f"the body did not arrive within {self._bodies.seconds:g} s",
                    "send it faster, or in smaller requests",
                )
            )
        if message["type"] == "http.request":
            self._arrived += len(message.get("body", b""))
            self._check(self._arrived)
            if not message.get("more_body", False):
                self._arrived = -1
        return message

    def _check(self, length: int) -> None:
        if length > self._largest:
            self._refuse(
                Refusal(
                    413,
                    "body_too_large",
                    f"the body is larger than {self._largest / 1e6:g} MB",
                    "send fewer or smaller images in one request",
                )
            )
        if self._keeps and length > self.held:
            try:
                self._bodies.hold(length - self.held)
            except QueueFull as error:
                self._refuse(error)
            self.held = length

    def _refuse(self, error: Refusal | QueueFull) -> None:
        self.refusal = error
        raise error


def _length(scope: Scope) -> int:
    """Announced length of a body, in bytes; 0 if none is announced."""
    try:
        return max(0, int(Headers(scope=scope).get("content-length", "0")))
    except ValueError:
        return 0
