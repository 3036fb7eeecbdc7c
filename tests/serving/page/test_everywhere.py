"""What holds on every page, in both schemes and at all widths: no barrier for whoever sees or moves differently."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served_page
from playwright.sync_api import Browser, Page, expect
from served_page import Served, wait_for

TOOLS = Path(__file__).resolve().parents[2] / "page-tools"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, pinned in tests/page-tools."""
    path = TOOLS / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        missing = f"axe-core is missing; run 'npm ci --prefix {TOOLS.relative_to(TOOLS.parents[1])}'"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, page_model: Path, widgets: Path
) -> Iterator[tuple[Served, list[dict[str, Any]]]]:
    """A service with a good, a defective and a reviewed inspection."""
    with served_page.served({"widget": page_model}, tmp_path_factory.mktemp("filled")) as service:
        good, dent = (sorted((widgets / "test" / kind).iterdir()) for kind in ("good", "dent"))
        found = service.send(dent[0], good[0], good[1], certify="true", part_id="A-1")
        service.call("PUT", f"/v1/inspections/{found[1]['id']}/review", {"label": "good", "note": "fine"})
        yield service, found


def pages(found: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Path of each page, and a place that is there once it is drawn."""
    return {
        "inspect": ("/", "#result"),
        "history": ("/history", "#gallery li"),
        "defective": (f"/history/{found[0]['id']}", "#detail .histogram"),
        "reviewed": (f"/history/{found[1]['id']}", "#judged .tag"),
        "review": ("/review", "#current .histogram"),
        "product": ("/product", "#versions tr"),
        "no such product": ("/?product=bolt", "h1"),
    }


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("(tags) => axe.run(document, { runOnly: tags })", list(RULES))
    assert len(found["passes"]) > 10
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_barrier(filled, tabs, axe: str, scheme: str, widgets: Path) -> None:
    service, found = filled
    page = tabs(service.url, color_scheme=scheme, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    barriers = {}
    for name, (path, place) in pages(found).items():
        page.goto(service.url + path)
        expect(page.locator(place).first).to_be_visible(timeout=20_000)
        barriers[name] = violations(page, axe)
    page.goto(service.url)
    page.set_input_files("#files", [*(widgets / "test" / "dent").iterdir(), Path(__file__)])
    wait_for(["1 failed"], page, "#summary")
    barriers["inspected"] = violations(page, axe)
    assert {name: found for name, found in barriers.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize("width", [768, 360])
def test_no_page_is_wider_than_the_screen(filled, tabs, width: int) -> None:
    service, found = filled
    page = tabs(service.url, viewport={"width": width, "height": 900}, has_touch=True)
    for path, place in pages(found).values():
        page.goto(service.url + path)
        expect(page.locator(place).first).to_be_visible(timeout=20_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        small = page.evaluate(
            """[...document.querySelectorAll("button, .button, nav a")]
                .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 32)
                .map((one) => one.textContent)"""
        )
        assert small == [], path


def test_every_control_is_reached_by_tab_and_shows_its_focus(filled, tabs) -> None:
    service, _ = filled
    page = tabs(service.url)
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        text, outlined = page.evaluate(
            """[document.activeElement.id || document.activeElement.textContent.trim(),
                getComputedStyle(document.activeElement).outlineStyle !== "none"]"""
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        reached.append(text)
        assert outlined, text
    assert reached[0] == "Skip to the content"
    expected = ["Inspect", "History", "Review", "Product", "files-button", "folder-button", "camera-open", "part"]
    assert [name for name in reached if name in expected] == expected


def test_the_policy_forbids_inline_code(filled, chromium: Browser) -> None:
    service, _ = filled
    page = chromium.new_page()
    page.goto(service.url)
    ran = page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            return window.ran === true;
        }"""
    )
    page.close()
    assert ran is False
