"""The service as a whole: its parts are put together, started, served over HTTP, and stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from advrad import __version__
from advrad.errors import AdvradError, ConfigError
from advrad.serving.access import Access, KeyTable
from advrad.serving.api import audit, drift, exports, health, inspections, openinference, products, reviews, thresholds
from advrad.serving.api.bodies import Bodies
from advrad.serving.api.boundary import LOOPBACK, Boundary
from advrad.serving.api.envelope import Envelope
from advrad.serving.api.failures import handle_failures
from advrad.serving.api.metrics import Metrics
from advrad.serving.api.parts import Parts, State
from advrad.serving.drift import DriftMonitor
from advrad.serving.inspecting import InspectionService
from advrad.serving.model_export import ModelExports
from advrad.serving.page.router import page_routes
from advrad.serving.page.sign_ins import SignInLog
from advrad.serving.products import ProductTable
from advrad.serving.settings import ServeSettings
from advrad.serving.sinks import Deliverer, Sink, load_sinks
from advrad.serving.store import Store

_ROUTERS = (inspections, reviews, products, thresholds, drift, exports, audit, health, openinference)
_RETENTION_S = 600.0


def check_settings(settings: ServeSettings) -> None:
    """Refuse settings that would let strangers in.

    Args:
        settings: The settings.

    Raises:
        ConfigError: Without keys, the service would be reachable from other machines; or half of the TLS files is
            missing.
    """
    if settings.keys is None and settings.host not in LOOPBACK:
        raise ConfigError(
            "can be reached from other machines, which needs keys; name a file of keys, made by 'advrad keys add', or"
            " listen on 127.0.0.1",
            option="host",
            value=settings.host,
        )
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_certificate"
        raise ConfigError("is missing; HTTPS needs both the certificate and its key", option=missing)


def create_app(settings: ServeSettings, runs: Mapping[str, Path], threads: int | None = None) -> FastAPI:
    """Load the models, open the history, and make the app; its lifespan starts and stops what works in it.

    Args:
        settings: The settings.
        runs: Folder of a model or an export for each product, by name.
        threads: Number of images that are judged at once, >= 1; None for as many as threads compute.

    Raises:
        ConfigError: A setting is wrong.
        CheckpointError: A model cannot be loaded.
        OutputError: The data folder cannot be used.
        StoreUnavailable: The database cannot be reached.
    """
    check_settings(settings)
    access = Access(None if settings.keys is None else KeyTable(settings.keys), settings.wrong_keys)
    sinks = [] if settings.sinks is None else load_sinks(settings.sinks, settings.deliverer("serve"))
    store = Store.open(settings.db, settings.data)
    try:
        parts, deliverer = _compose(settings, runs, access, store, sinks, threads)
    except BaseException:
        store.close()
        raise
    return build_app(parts, deliverer)


def _compose(
    settings: ServeSettings,
    runs: Mapping[str, Path],
    access: Access,
    store: Store,
    sinks: Sequence[Sink],
    threads: int | None,
) -> tuple[Parts, Deliverer]:
    """Put the parts together on an open store."""
    deliverer = Deliverer(store.outbox, sinks, tell=_tell)
    monitor = DriftMonitor(store)
    table = ProductTable(
        runs,
        max_pixels=settings.max_pixels,
        device=settings.device,
        threads=threads,
        on_load=lambda product: monitor.watch(product.name, product.model, product.calibration),
    )
    service = InspectionService(
        store, table, monitor, settings, sinks=deliverer.names, wake=deliverer.wake, threads=threads
    )
    state = State()
    exports = ModelExports(lambda: state.stopping)
    parts = Parts(settings, access, store, table, service, monitor, Metrics(), exports, deliverer.names, state)
    return parts, deliverer


def build_app(parts: Parts, deliverer: Deliverer) -> FastAPI:
    """Make the app of parts that are put together.

    Args:
        parts: The parts.
        deliverer: Sends verdicts to the sinks.
    """
    settings = parts.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(parts.store.close)
            stack.callback(_close, parts.monitor)
            deliverer.start()
            stack.push_async_callback(run_in_threadpool, deliverer.stop)
            parts.products.start()
            stack.push_async_callback(run_in_threadpool, parts.products.stop)
            parts.service.start()
            stack.push_async_callback(run_in_threadpool, parts.service.stop, settings.stop_s)
            keeping = asyncio.create_task(_keep_house(parts))
            stack.callback(keeping.cancel)
            yield
            parts.state.stopping = True

    app = FastAPI(
        title="advrad",
        version=__version__,
        description="Inspect images of products, read the history of inspections, review them, and set thresholds.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=_operation_name,
        redirect_slashes=False,
    )
    app.state.parts = parts
    handle_failures(app)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.include_router(page_routes(parts.access, parts.products.names, SignInLog(parts.store.audit)))
    # The last one is the outermost.
    app.add_middleware(
        Bodies,
        largest=settings.max_body,
        seconds=settings.body_s,
        held=settings.max_held,
        check_room=parts.service.check_room,
    )
    app.add_middleware(Boundary, access=parts.access, hosts=_hosts(settings))
    app.add_middleware(Envelope, metrics=parts.metrics)
    return app


def _operation_name(route: APIRoute) -> str:
    """Name of an operation in the OpenAPI description, such as inspections_get."""
    return f"{route.tags[0] if route.tags else 'page'}_{route.name}".replace(" ", "_")


def _hosts(settings: ServeSettings) -> frozenset[str]:
    """Names that the service has for browsers; none for any. Without keys, these are the names of this machine."""
    return frozenset(settings.hosts or ()) | (LOOPBACK if settings.keys is None else frozenset())


def _close(monitor: DriftMonitor) -> None:
    try:
        monitor.close()
    except AdvradError as error:
        _tell(f"the state of the drift monitor was not saved: {error}")


async def _keep_house(parts: Parts) -> None:
    """Apply the retention of images, now and again."""
    settings = parts.settings
    age = None if settings.keep_days is None else timedelta(days=settings.keep_days)
    size = None if settings.keep_gb is None else int(settings.keep_gb * 1e9)
    while True:
        try:
            await run_in_threadpool(parts.store.retention.apply, datetime.now(UTC), age, size)
        except AdvradError as error:
            _tell(f"old images were not deleted: {error}")
        await asyncio.sleep(_RETENTION_S)


def _tell(text: str) -> None:
    structlog.get_logger("advrad.serving").warning(text)
