"""The page History and the detail view in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect
from served_page import Served, until, wait_for

EVIL = '<b>bold</b> & "quoted" \'; DROP TABLE inspections; --'


@pytest.fixture
def good(widgets: Path) -> list[Path]:
    return sorted((widgets / "test" / "good").iterdir())


@pytest.fixture
def dents(widgets: Path) -> list[Path]:
    return sorted((widgets / "test" / "dent").iterdir())


def test_the_history_outlives_a_restart(service: Served, tabs, good: list[Path], dents: list[Path]) -> None:
    service.send(good[0], part_id="A-1")
    service.send(dents[0], part_id="A-2")
    service.stop()
    service.start()
    page = tabs(service.url, "/history")
    expect(page.locator("#gallery li")).to_have_count(2)
    expect(page.locator("#gallery li").first).to_contain_text("A-2")
    expect(page.locator("#gallery li").first).to_contain_text("Defective")
    until(page, "[...document.querySelectorAll('.thumb img')].every((one) => one.naturalWidth > 0)")
    page.get_by_text("A-1", exact=True).click()
    wait_for(["Good"], page, "#detail .word")
    wait_for([good[0].name, "64 \N{MULTIPLICATION SIGN} 64 pixels", "that of the model folder"], page, "#stored")


@pytest.mark.slow
def test_filters_and_pages(service: Served, tabs, good: list[Path], dents: list[Path]) -> None:
    service.send(*good[:2], station="line 1")
    service.send(*dents[:1], station="line 2")
    page = tabs(service.url, "/history")
    expect(page.locator("#gallery li")).to_have_count(3)
    page.get_by_label("Verdict").select_option("defective")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#gallery li")).to_have_count(1)
    assert page.url == f"{service.url}/history?verdict=defective"
    assert "verdict=defective" in (page.locator("#csv").get_attribute("href") or "")
    page.get_by_label("Station").fill("line 1")
    page.get_by_role("button", name="Filter").click()
    wait_for(["Nothing fits these filters"], page, "#summary")
    # A time is one of this computer, and stands in the field again.
    page.goto(f"{service.url}/history?since=2031-01-01T00:00")
    wait_for(["Nothing fits these filters"], page, "#summary")
    assert page.get_by_label("From").input_value() == "2031-01-01T00:00"
    page.get_by_role("link", name="Clear").click()
    expect(page.locator("#gallery li")).to_have_count(3)


def test_what_people_typed_is_shown_as_text(service: Served, tabs, good: list[Path]) -> None:
    [found] = service.send(good[0], part_id=EVIL, station=EVIL)
    service.call("PUT", f"/v1/inspections/{found['id']}/review", {"label": "unsure", "note": EVIL})
    page = tabs(service.url, "/history")
    wait_for([EVIL], page, "#gallery .name")
    page.get_by_text(EVIL).click()
    wait_for([EVIL], page, "#detail-title")
    wait_for([EVIL], page, "#stored")
    wait_for([EVIL], page, "#judged")
    assert page.locator("main b").count() == 0


@pytest.mark.slow
def test_times_are_local_and_name_their_zone(service: Served, tabs, good: list[Path]) -> None:
    [found] = service.send(good[0])
    hour = (int(found["at"][11:13]) + 9) % 24
    page = tabs(service.url, f"/history/{found['id']}", timezone_id="Asia/Tokyo", locale="en-GB")
    wait_for([f", {hour:02}:{found['at'][14:16]}", "GMT+9"], page, "#stored time")


@pytest.mark.slow
def test_an_inspection_is_deleted_only_after_a_yes(service: Served, tabs, good: list[Path]) -> None:
    [found] = service.send(good[0])
    page = tabs(service.url, f"/history/{found['id']}")
    wait_for(["Good"], page, "#detail .word")
    page.get_by_role("button", name="Delete this inspection").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert len(service.call("GET", "/v1/inspections")["inspections"]) == 1
    page.get_by_role("button", name="Delete this inspection").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    wait_for(["Nothing has been inspected yet"], page, "#summary")
    assert service.call("GET", "/v1/inspections")["inspections"] == []
