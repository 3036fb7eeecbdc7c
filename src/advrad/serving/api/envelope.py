"""What surrounds every request: an identity, a line in the log, counters, security headers, and the last resort."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advrad.errors import AdvradError
from advrad.serving.api.failures import ErrorDetail, answer_of, error_response
from advrad.serving.api.metrics import Metrics

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer. A page may load from this service alone, and no other site may show or read it."""

UNMATCHED = "unmatched"
"""Route of a request that no route takes."""

_GONE = 499  # the client went away before it had its answer


class _TooSlow(Exception):
    """A client did not take a piece of its answer in time."""


class Envelope:
    """The outermost layer of the app.

    Args:
        app: The app inside.
        metrics: The counters.
        send_s: Seconds within which a client must take each piece of an answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, send_s: float = 30.0) -> None:
        self.app, self.metrics, self.send_s = app, metrics, send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, name, status = time.perf_counter(), uuid.uuid4().hex, 0
        scope.setdefault("state", {})["request_id"] = name

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers[key] = value
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Request-ID"] = name
            try:
                async with asyncio.timeout(self.send_s):
                    await send(message)
            except TimeoutError:
                raise _TooSlow from None

        log = structlog.get_logger("advrad.request")
        try:
            await self._answer(scope, receive, sent, lambda: status)
        except (ClientDisconnect, _TooSlow):
            status = status or _GONE
        finally:
            seconds = time.perf_counter() - begun
            route = route_of(scope)
            self.metrics.request(scope["method"], route, status, seconds)
            who = scope["state"].get("principal")
            log.info(
                "request",
                request=name,
                method=scope["method"][:10],
                route=route,
                status=status,
                ms=round(1000 * seconds, 1),
                key=None if who is None else who.name,
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send, started: Any) -> None:
        """Let the app answer; an error that nothing inside told becomes one here."""
        try:
            await self.app(scope, receive, send)
        except (ClientDisconnect, _TooSlow):
            raise
        except AdvradError as error:
            if started():
                raise
            await answer_of(error)(scope, receive, send)
        except Exception:
            name = scope["state"]["request_id"]
            structlog.get_logger("advrad.request").exception("a defect of advrad", request=name)
            if started():
                raise
            detail = ErrorDetail(
                code="defect",
                message="advrad has a defect here",
                fix=f"report it with the lines of the log about request {name}",
            )
            await error_response(500, detail)(scope, receive, send)


def route_of(scope: Scope) -> str:
    """Route that took a request, with the names of its parts in place of their values.

    Args:
        scope: Scope of the request, after it was answered.
    """
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else UNMATCHED
