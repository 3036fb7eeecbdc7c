"""The server itself, over a real socket: what is slow, too large, or broken off."""

from __future__ import annotations

import errno
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import closed_form_run
import httpx
import pytest
from needed_programs import needed

from advrad.errors import ConfigError, OutputError
from advrad.serving import running
from advrad.serving.settings import ServeSettings

WAIT_S = 60.0
"""Longest wait for the server; a test that reaches it fails."""

POST = b"POST /v1/products/widget/inspections HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def served_run(widgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return closed_form_run.write(widgets, tmp_path_factory.mktemp("served") / "widget")


@contextmanager
def serving(run: Path, data: Path, **settings: Any) -> Iterator[int]:
    """A server in a thread; yields its port."""
    place: list[str] = []
    servers: list[running.Server] = []
    known = threading.Event()

    def listening(address: str) -> None:
        place.append(address)
        known.set()

    real = running.Server.__init__

    def remembered(self: running.Server, *arguments: Any) -> None:
        real(self, *arguments)
        servers.append(self)

    wanted = ServeSettings(data=data, port=0, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Server, "__init__", remembered)
        patch.setattr(running, "set_up_logs", lambda: None)
        patch.setattr(running, "_HEADERS_S", 2 * WAIT_S)
        thread = threading.Thread(target=running.serve, args=(wanted, {"widget": run}, listening))
        thread.start()
        try:
            assert known.wait(WAIT_S)
            yield int(place[0].rpartition(":")[2])
        finally:
            servers[0].should_exit = True
            thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(served_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(served_run, tmp_path_factory.mktemp("running"), max_body_mb=1, connections=20) as found:
        yield found


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for headers for a short time."""
    monkeypatch.setattr(running, "_HEADERS_S", 3.0)


def talk(port: int, *pieces: bytes, pause_s: float = 0.0) -> tuple[bytes, int]:
    """Send pieces, and read until the server closes the connection; returns what came and how many pieces were sent.

    A server that does not close the connection in time is a failure.
    """
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                sent += 1
                time.sleep(pause_s)
        except OSError as error:  # closed while we were sending
            assert error.errno in (errno.EPIPE, errno.ECONNRESET)
        return b"".join(_rest(connection)), sent


def _rest(connection: socket.socket) -> Iterator[bytes]:
    try:
        while piece := connection.recv(65536):
            yield piece
    except ConnectionResetError:
        return


@pytest.mark.usefixtures("hasty")
def test_headers_that_never_end_are_not_waited_for(port: int) -> None:
    got, _ = talk(port, b"GET /healthz HTTP/1.1\r\nHost: local")
    assert got == b""


@pytest.mark.usefixtures("hasty")
def test_headers_that_trickle_in_are_not_waited_for(port: int) -> None:
    lines = [b"X-A: b\r\n"] * 1200
    got, sent = talk(port, b"GET /healthz HTTP/1.1\r\n", *lines, pause_s=0.05)
    assert b"200" not in got and sent < len(lines), "the connection was closed while lines still came"


@pytest.mark.usefixtures("hasty")
def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    got, _ = talk(port)
    assert got == b""


def test_a_slow_body_is_ended(served_run: Path, tmp_path: Path) -> None:
    with serving(served_run, tmp_path, body_s=1) as port:
        pieces = [b"x"] * 600
        got, sent = talk(port, POST + b"Content-Length: 100000\r\n\r\n", *pieces, pause_s=0.1)
    assert got.startswith(b"HTTP/1.1 408") and b"body_too_slow" in got
    assert sent < len(pieces), "the connection was closed while the body still came"


def test_a_body_that_is_announced_too_large_is_refused_at_once(port: int) -> None:
    """It is refused before any of it was sent."""
    got, _ = talk(port, POST + b"Content-Length: 99999999999\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413") and b"connection: close" in got.lower()


def test_a_body_without_an_end_is_refused_where_it_is_too_large(port: int) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    got, _ = talk(port, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 40)
    assert got == b"" or got.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["tls", "short", "version", "hosts", "negative", "lengths", "smuggling", "headers", "address"],
)
@pytest.mark.usefixtures("hasty")
def test_what_is_no_request_is_refused(port: int, request_: bytes) -> None:
    got, _ = talk(port, request_)
    assert got == b"" or got.startswith(b"HTTP/1.1 4")


def test_a_client_that_goes_away_does_no_harm(port: int) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\nxxx")
    got, _ = talk(port, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")


def test_too_many_connections_are_told_to_come_again(port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(25)]
    try:
        got, _ = talk(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 503")
    finally:
        for connection in held:
            connection.close()
    until = time.monotonic() + WAIT_S
    while not got.startswith(b"HTTP/1.1 200"):  # the server does not see at once that the others are gone
        assert got.startswith(b"HTTP/1.1 503") and time.monotonic() < until
        time.sleep(0.05)
        got, _ = talk(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def test_https(served_run: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = [needed("openssl"), *make.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with serving(served_run, tmp_path / "data", tls_certificate=certificate, tls_key=key) as port:
        answer = httpx.get(f"https://localhost:{port}/healthz", verify=trusting, timeout=WAIT_S)
        assert answer.status_code == 200
        # Who speaks plain HTTP gets no answer in the clear.
        assert talk(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == b""


def test_a_file_that_is_no_certificate_is_told(served_run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("x")
    settings = ServeSettings(data=tmp_path, port=0, tls_certificate=tmp_path / "x.pem", tls_key=tmp_path / "x.pem")
    with pytest.raises(ConfigError, match=r"x\.pem: cannot be used"):
        running.serve(settings, {"widget": served_run}, print)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pem"]


def test_a_port_in_use_and_an_unknown_host_are_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServeSettings(data=tmp_path, port=taken.getsockname()[1])
        with pytest.raises(OutputError, match="is in use"):
            running.serve(settings, {"widget": tmp_path}, print)
    settings = ServeSettings(data=tmp_path, host="no-such-host.invalid", keys=tmp_path / "keys", port=0)
    with pytest.raises(OutputError, match="cannot be listened on"):
        running.serve(settings, {"widget": tmp_path}, print)
    assert list(tmp_path.iterdir()) == []
