"""The process that serves: one uvicorn, with deadlines where it has none, and an orderly stop."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from advrad.errors import ConfigError, OutputError
from advrad.serving.api.boundary import LOOPBACK
from advrad.serving.api.logs import set_up_logs
from advrad.serving.app import check_settings, create_app
from advrad.serving.settings import ServeSettings
from advrad.utils.threads import one_thread_each

_HEADER_BYTES = 32_000
_HEADERS_S = 10.0


class _Protocol(H11Protocol):
    """HTTP/1.1, where a connection that does not send a whole request's headers in time is closed."""

    _waits: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if not idle:
            self._stop_waiting()
        elif self._waits is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waits = self.loop.call_later(_HEADERS_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _too_slow(self) -> None:
        self._waits = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """A server that says that it stops as soon as it is told to, and tells its address when it listens.

    Args:
        config: Configuration of uvicorn.
        app: The app.
        listening: Called with the address of the page.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._app, self._listening = app, listening

    async def startup(self, sockets: Any = None) -> None:
        """Open the sockets, and tell the address."""
        await super().startup(sockets)
        if self.started:
            host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            self._listening(f"{'https' if self.config.is_ssl else 'http'}://{shown}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal to stop."""
        self._app.state.parts.state.stopping = True
        super().handle_exit(sig, frame)


def serve(settings: ServeSettings, runs: Mapping[str, Path], listening: Callable[[str], None]) -> None:
    """Serve until a signal stops it; what was taken is finished first.

    Args:
        settings: The settings.
        runs: Folder of a model or an export for each product, by name.
        listening: Called with the address of the page when the service can be reached.

    Raises:
        ConfigError: A setting is wrong.
        CheckpointError: A model cannot be loaded.
        OutputError: The data folder, the address or the port cannot be used.
        StoreUnavailable: The database cannot be reached.
    """
    set_up_logs()
    check_settings(settings)
    _check_certificate(settings)
    threads = one_thread_each()
    with _bound(settings) as listener:
        _serve(settings, create_app(settings, runs, threads), listener, listening)


def _serve(settings: ServeSettings, app: FastAPI, listener: socket.socket, listening: Callable[[str], None]) -> None:
    if settings.keys is not None and settings.host not in LOOPBACK and settings.tls_certificate is None:
        structlog.get_logger("advrad.serving").warning(
            "keys and images travel unencrypted: put a proxy with HTTPS before the service, or give it a certificate"
        )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.connections,
        backlog=settings.connections,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=int(settings.stop_s) + 1,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    # A signal that asks to stop is raised again by uvicorn after the stop, which is then as it should be.
    with suppress(KeyboardInterrupt):
        Server(config, app, listening).run(sockets=[listener])


def _check_certificate(settings: ServeSettings) -> None:
    """Refuse files that are no certificate and its key, before anything is loaded."""
    if settings.tls_certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise ConfigError(
            f"{settings.tls_certificate}, {settings.tls_key}: cannot be used: {reason}; name PEM files that fit"
        ) from None


def _bound(settings: ServeSettings) -> socket.socket:
    """A socket with its address, so that a port that is taken is told before anything starts."""
    host, port = settings.host, settings.port
    bound: socket.socket | None = None
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        return bound
    except OSError as error:
        if bound is not None:
            bound.close()
        if error.errno == errno.EADDRINUSE:
            raise OutputError(f"port {port} of {host} is in use; stop what uses it, or take another port") from None
        reason = error.strerror or "unknown address"
        raise OutputError(f"{host}, port {port}: cannot be listened on: {reason}; take another address") from None
