from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from advrad.serving.api.envelope import Envelope
from advrad.serving.api.failures import Refusal
from advrad.serving.api.metrics import Metrics


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
    await send({"type": "http.response.body", "body": b"x"})


def ask(app: Any, send: Any = None, **options: float) -> tuple[list[dict[str, Any]], str]:
    """What an app sends inside an envelope, and the figures after it."""
    sent: list[dict[str, Any]] = []
    metrics = Metrics()

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Envelope(app, metrics, **options)(scope, nothing, send or keep))
    return sent, metrics.text(0, {}, {})


def test_a_caching_rule_of_a_route_stays() -> None:
    sent, figures = ask(answering)
    headers = dict(sent[0]["headers"])
    assert headers[b"cache-control"] == b"public" and headers[b"x-content-type-options"] == b"nosniff"
    assert 'status="200"' in figures


def test_a_client_that_takes_nothing_is_given_up() -> None:
    async def stuck(message: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    _, figures = ask(answering, stuck, send_s=0.05)
    assert 'route="unmatched",status="200"' in figures


def test_a_client_that_goes_away_is_counted_as_such() -> None:
    async def gone(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    sent, figures = ask(gone)
    assert sent == [] and 'status="499"' in figures


def test_a_refusal_that_nobody_told_is_told_here() -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        raise Refusal(418, "teapot", "no coffee here", "drink tea")

    sent, _ = ask(refusing)
    assert sent[0]["status"] == 418
    assert json.loads(sent[1]["body"]) == {"error": {"code": "teapot", "message": "no coffee here", "fix": "drink tea"}}


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError(), PermissionError(13, "x"), RecursionError()])
def test_a_defect_is_logged_and_told(error: Exception, log: io.StringIO) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise error

    sent, figures = ask(broken)
    assert sent[0]["status"] == 500 and 'status="500"' in figures
    assert type(error).__name__ in log.getvalue()


def test_a_defect_in_the_middle_of_an_answer_breaks_it_off() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        ask(broken)
