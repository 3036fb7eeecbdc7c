"""A receiver of webhooks on loopback that keeps what arrives, and answers what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Receiver:
    """What arrived, and what is answered: the status, headers, and a body."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    #: Writes the answer itself, in place of the above.
    act: Callable[[BaseHTTPRequestHandler], None] | None = None
    arrived: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def inspections(self) -> list[dict[str, object]]:
        """All inspections that arrived, also those that arrived twice."""
        return [one for _, _, body in list(self.arrived) for one in json.loads(body)["inspections"]]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive while the block runs."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.arrived.append((self.path, dict(self.headers.items()), body))
            if state.act is not None:
                state.act(self)
                return
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of senders that are killed."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/advrad?line=3"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
