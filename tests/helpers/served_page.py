"""The service in a thread of the tests, stopped and started at will, and browser tabs that look at its page."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import closed_form_run
import httpx
import uvicorn
from needed_programs import needed
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from advrad.detectors.closed_form import ClosedFormDetector

WAIT_S = 20.0
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def write_model(data: Path, folder: Path) -> Path:
    """The closed form of the widgets, with the scores of its calibration."""
    detector = closed_form_run.fitted(data)
    detector.config = detector.config.model_copy(
        update={"calibration": detector.config.calibration.model_copy(update={"scores": _scores(detector, data)})}
    )
    detector.save_pretrained(folder)
    return folder


def _scores(detector: ClosedFormDetector, data: Path) -> tuple[float, ...]:
    import torch
    import trained_run

    from advrad.data.images import read_resized

    paths = sorted((data / "train" / "good").iterdir())
    images = torch.stack([read_resized(path, trained_run.SIZE_PX) for path in paths])
    with torch.no_grad():
        return tuple(sorted(detector.scores(images, exclude=torch.arange(len(images))).tolist()))


@dataclass
class Served:
    """A service that a test may stop and start again, at the same address and with the same history."""

    runs: dict[str, Path]
    data: Path
    keys: Path | None = None
    port: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from advrad.serving.app import create_app
        from advrad.serving.settings import ServeSettings

        settings = ServeSettings(data=self.data, keys=self.keys, port=self.port)
        app = create_app(settings, self.runs)
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        for _ in range(int(WAIT_S / 0.02)):
            if self._server.started:
                break
            self._thread.join(0.02)
            assert self._thread.is_alive(), "the service ended while it started"
        assert self._server.started
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        assert self._server is not None and self._thread is not None
        self._server.should_exit = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._server = self._thread = None

    def send(self, *pictures: Path, key: str | None = None, **fields: str) -> list[dict[str, Any]]:
        """Inspect pictures over HTTP, as a camera program does."""
        (product,) = list(self.runs)[:1]
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        found = []
        for picture in pictures:
            answer = httpx.post(
                f"{self.url}/v1/products/{product}/inspections",
                files={"files": (picture.name, picture.read_bytes())},
                data=fields,
                headers=headers,
                timeout=WAIT_S,
            )
            assert answer.status_code == 201, answer.text
            found += answer.json()["inspections"]
        return found

    def call(self, method: str, path: str, json: object = None) -> Any:
        """Ask the HTTP interface, which must answer yes."""
        answer = httpx.request(method, f"{self.url}{path}", json=json, timeout=WAIT_S)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


@contextmanager
def served(runs: dict[str, Path], data: Path, keys: Path | None = None) -> Iterator[Served]:
    """A running service, stopped at the end."""
    service = Served(runs, data, keys)
    service.start()
    try:
        yield service
    finally:
        if service._server is not None:
            service.stop()


@contextmanager
def browser(*more: str) -> Iterator[Browser]:
    """Debian's Chromium."""
    path = needed("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *more])
        yield chromium
        chromium.close()


@dataclass
class Watch:
    """What tabs did that no tab may do: load from another host, break the content policy, end in an error."""

    url: str
    wrongs: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("request", self._requested)
        page.on("console", self._told)
        page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(self.url + "/"):
            self.wrongs.append(f"another host: {request.url}")

    def _told(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            self.wrongs.append(message.text)


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true on the page. The page's content policy forbids Playwright's own way to wait."""
    for _ in range(int(WAIT_S / 0.1)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def wait_for(words: Sequence[str], page: Page, place: str) -> None:
    """Wait until a place on the page holds all words."""
    from playwright.sync_api import expect

    for word in words:
        expect(page.locator(place)).to_contain_text(word, timeout=WAIT_S * 1000)
