"""The service, a browser, and tabs for the tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import served_page
from playwright.sync_api import Browser, Page, expect
from served_page import Served, Watch

Tabs = Callable[..., Page]

expect.set_options(timeout=served_page.WAIT_S * 1000)


@pytest.fixture(scope="session")
def page_model(tmp_path_factory: pytest.TempPathFactory, widgets: Path) -> Path:
    return served_page.write_model(widgets, tmp_path_factory.mktemp("page") / "widget")


# The browser ends with each module: while it runs, nothing else in this process can run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with served_page.browser(*served_page.CAMERA) as browser:
        yield browser


@pytest.fixture
def service(tmp_path: Path, page_model: Path) -> Iterator[Served]:
    with served_page.served({"widget": page_model}, tmp_path / "data") as service:
        yield service


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Opens tabs of one person; at the end, none of them may have done what no tab may do."""
    opened: list[tuple[Page, Watch]] = []

    def tab(url: str, path: str = "/", *, beside: Page | None = None, **options: object) -> Page:
        context = chromium.new_context(**options) if beside is None else beside.context
        page = context.new_page()
        page.set_default_timeout(served_page.WAIT_S * 1000)
        watch = Watch(url)
        watch.follow(page)
        opened.append((page, watch))
        page.goto(url + path)
        return page

    yield tab
    for page, _ in opened:
        page.close(run_before_unload=False)
    for page, _ in opened:
        page.context.close()
    assert [wrong for _, watch in opened for wrong in watch.wrongs] == []
