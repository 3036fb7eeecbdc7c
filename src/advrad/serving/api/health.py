"""Routes for what watches the service: is it alive, can it work, and its figures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.metrics import CONTENT_TYPE
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import Health, failures
from advrad.serving.errors import StoreUnavailable

router = APIRouter(tags=["health"])
Service = Annotated[Parts, Depends(parts_of)]

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Figures."}
}


@router.get("/healthz", response_model=Health)
async def alive() -> Health:
    """Whether the process lives."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health, "description": "It cannot work now."}})
async def ready(response: Response, parts: Service) -> Health:
    """Whether the service can inspect: it is not stopping, the history answers, and the keys can be read."""
    reasons = await reasons_against(parts)
    response.status_code = 503 if reasons else 200
    return Health(status="not ready" if reasons else "ok", reasons=reasons)


async def reasons_against(parts: Parts) -> list[str]:
    """Why the service cannot work now; empty if it can.

    Args:
        parts: The parts of the service.
    """
    if parts.state.stopping:
        return ["the service is stopping"]
    reasons = []
    if parts.access.keys is not None and parts.access.keys.problem is not None:
        reasons.append("the file of keys cannot be read")
    try:
        await run_in_threadpool(parts.store.ping)
    except StoreUnavailable:
        reasons.append("the history cannot be reached")
    return reasons


@router.get(
    "/metrics",
    response_class=Response,
    responses=failures() | _TEXT,
)
def metrics(who: Annotated[Principal, Depends(require(Role.INSPECT))], parts: Service) -> Response:
    """Figures for Prometheus."""
    alarms = {name: bool(parts.monitor.status(name).get("alarm")) for name in parts.products.names()}
    try:
        waiting = parts.store.outbox.waiting()
        pending: dict[str, int] | None = {sink: waiting.get(sink, 0) for sink in parts.sinks}
    except StoreUnavailable:
        pending = None
    return Response(parts.metrics.text(parts.service.waiting, alarms, pending), media_type=CONTENT_TYPE)
