"""The page Review in a real browser: keys, undo, two tabs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from served_page import Served, wait_for


@pytest.fixture
def pictures(widgets: Path, tmp_path: Path) -> list[Path]:
    """Three good ones and a dent, each with a name of its own."""
    found = [*sorted((widgets / "test" / "good").iterdir())[:3], *sorted((widgets / "test" / "dent").iterdir())[:1]]
    return [shutil.copyfile(path, tmp_path / f"{path.parent.name}-{path.name}") for path in found]


def reviews(service: Served) -> dict[str, Any]:
    """Label and note of each inspection, by its file."""
    found = service.call("GET", "/v1/inspections")["inspections"]
    return {one["file_name"]: one["review"] and (one["review"]["label"], one["review"]["note"]) for one in found}


def queue(service: Served) -> list[str]:
    return [one["file_name"] for one in service.call("GET", "/v1/products/widget/review-queue")["inspections"]]


def stored(service: Served, page: Page, wanted: dict[str, Any]) -> None:
    """Wait until these reviews are stored: the page shows the next picture before that."""
    for _ in range(600):
        if reviews(service).items() >= wanted.items():
            return
        page.wait_for_timeout(100)
    assert reviews(service).items() >= wanted.items()


def test_three_keys_and_undo(service: Served, tabs, pictures: list[Path]) -> None:
    service.send(*pictures)
    order = queue(service)
    page = tabs(service.url, "/review")
    current = page.locator("#current .card-more")
    expect(current).to_contain_text(order[0])
    wait_for(["0 pictures reviewed here, 4 to go"], page, "#summary")

    page.keyboard.press("g")
    expect(current).to_contain_text(order[1])
    # A note is typed, so its letters are no reviews; Enter leaves the field.
    page.keyboard.press("n")
    page.keyboard.type("dgu <b>scratch</b>")
    page.keyboard.press("Enter")
    page.keyboard.press("d")
    expect(current).to_contain_text(order[2])
    page.keyboard.press("u")
    expect(current).to_contain_text(order[3])
    wait_for(["3 pictures reviewed here, 1 to go"], page, "#summary")
    stored(
        service,
        page,
        {order[0]: ("good", ""), order[1]: ("defective", "dgu <b>scratch</b>"), order[2]: ("unsure", "")},
    )

    page.keyboard.press("z")
    expect(current).to_contain_text(order[2])
    wait_for(["review taken back"], page, "#says")
    stored(service, page, {order[2]: None})
    page.keyboard.press("g")
    page.keyboard.press("d")
    wait_for(["Nothing waits for a review"], page, "#current")
    stored(service, page, {order[2]: ("good", ""), order[3]: ("defective", "")})


@pytest.mark.slow
def test_single_keys_can_be_switched_off(service: Served, tabs, pictures: list[Path]) -> None:
    service.send(pictures[0])
    page = tabs(service.url, "/review")
    expect(page.locator("#judge")).to_be_visible()
    page.get_by_label("Single keys").uncheck()
    page.locator("#main").focus()
    page.keyboard.press("g")
    wait_for(["0 pictures reviewed here, 1 to go"], page, "#summary")
    page.get_by_role("button", name="Good").click()
    stored(service, page, {pictures[0].name: ("good", "")})


def test_a_review_in_one_tab_shows_in_the_other(service: Served, tabs, pictures: list[Path]) -> None:
    service.send(*pictures[:2])
    order = queue(service)
    one = tabs(service.url, "/review")
    other = tabs(service.url, "/review", beside=one)
    history = tabs(service.url, "/history", beside=one)
    expect(other.locator("#current .card-more")).to_contain_text(order[0])
    expect(history.locator("#gallery li")).to_have_count(2)
    one.bring_to_front()
    one.keyboard.press("d")
    other.bring_to_front()
    wait_for([f"{order[0]} was reviewed elsewhere as defective, by local"], other, "#says")
    expect(other.locator("#current .card-more")).to_contain_text(order[1])
    history.bring_to_front()
    wait_for(["Reviewed: Defective"], history, "#gallery")


@pytest.mark.slow
def test_a_conflict_is_told_and_overwrites_nothing(service: Served, tabs, pictures: list[Path]) -> None:
    [found] = service.send(pictures[0])
    page = tabs(service.url, f"/history/{found['id']}")
    wait_for(["Nobody has reviewed it"], page, "#judged")
    # This tab does not hear of the other review until it has sent its own.
    page.route(f"**/v1/inspections/{found['id']}", lambda route: route.abort())
    service.call("PUT", f"/v1/inspections/{found['id']}/review", {"label": "defective", "note": "burr"})
    page.keyboard.press("g")
    wait_for(["Not stored: somebody else reviewed it meanwhile"], page, "#says")
    assert reviews(service) == {pictures[0].name: ("defective", "burr")}
    page.unroute_all()
    wait_for(["Reviewed: Defective", "burr"], page, "#judged")


@pytest.mark.slow
def test_reviews_wait_for_a_service_that_is_away(service: Served, tabs, pictures: list[Path]) -> None:
    service.send(*pictures[:2])
    order = queue(service)
    page = tabs(service.url, "/review")
    expect(page.locator("#current .card-more")).to_contain_text(order[0])
    service.stop()
    page.keyboard.press("g")
    expect(page.get_by_role("alert").filter(has_text="The service does not answer")).to_be_visible()
    service.start()
    stored(service, page, {order[0]: ("good", "")})


@pytest.mark.slow
def test_undo_takes_back_no_review_of_somebody_else(service: Served, tabs, pictures: list[Path]) -> None:
    [found] = service.send(pictures[0])
    page = tabs(service.url, "/review")
    expect(page.locator("#judge")).to_be_visible()
    page.keyboard.press("g")
    stored(service, page, {pictures[0].name: ("good", "")})
    service.call("PUT", f"/v1/inspections/{found['id']}/review", {"label": "defective", "note": "burr"})
    page.keyboard.press("z")
    wait_for(["not taken back, because somebody else reviewed it"], page, "#says")
    assert reviews(service) == {pictures[0].name: ("defective", "burr")}


@pytest.mark.slow
def test_an_undo_whose_answer_is_lost_is_not_done_twice(service: Served, tabs, pictures: list[Path]) -> None:
    [found] = service.send(pictures[0])
    service.call("PUT", f"/v1/inspections/{found['id']}/review", {"label": "unsure", "note": "first"})
    page = tabs(service.url, f"/history/{found['id']}")
    wait_for(["Reviewed: Unsure"], page, "#judged")
    page.keyboard.press("d")
    wait_for(["Reviewed: Defective"], page, "#judged")
    lost = []

    def lose_the_answer(route: Route) -> None:
        if route.request.method == "DELETE" and not lost:
            lost.append(route.fetch())
            route.abort()
        else:
            route.continue_()

    page.route("**/review", lose_the_answer)
    page.keyboard.press("z")
    wait_for(["Review taken back"], page, "#says")
    assert len(lost) == 1
    assert reviews(service) == {pictures[0].name: ("unsure", "first")}


@pytest.mark.slow
def test_an_undo_on_its_way_is_not_taken_for_the_review_of_somebody_else(
    service: Served, tabs, pictures: list[Path]
) -> None:
    service.send(pictures[0])
    page = tabs(service.url, "/review")
    expect(page.locator("#judge")).to_be_visible()
    page.keyboard.press("g")
    stored(service, page, {pictures[0].name: ("good", "")})
    held: list[Route] = []
    page.route("**/review", lambda route: held.append(route) if route.request.method == "DELETE" else route.continue_())
    page.keyboard.press("z")
    page.wait_for_timeout(4000)
    wait_for([f"{pictures[0].name}: review taken back."], page, "#says")
    held[0].continue_()
    stored(service, page, {pictures[0].name: None})
    page.wait_for_timeout(3000)
    wait_for([f"{pictures[0].name}: review taken back."], page, "#says")
    expect(page.locator("#current .card-more")).to_contain_text(pictures[0].name)
