"""The page Inspect in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect
from served_page import Served, until, wait_for


@pytest.fixture
def good(widgets: Path) -> list[Path]:
    return sorted((widgets / "test" / "good").iterdir())


@pytest.fixture
def dents(widgets: Path) -> list[Path]:
    return sorted((widgets / "test" / "dent").iterdir())


def choose(page: Page, *files: Path) -> None:
    page.set_input_files("#files", list(files))


def rows(page: Page) -> dict[str, str]:
    """What the list says of each file."""
    names = page.locator("#list .name").all_inner_texts()
    return dict(zip(names, page.locator("#list .says").all_inner_texts(), strict=True))


def test_a_good_and_a_defective_picture(service: Served, tabs, good: list[Path], dents: list[Path]) -> None:
    page = tabs(service.url)
    page.get_by_label("Part").fill("A-1")
    choose(page, good[0])
    wait_for(["Good"], page, "#result .word")
    expect(page.locator("#result svg.shape.good circle")).to_be_visible()
    wait_for(["Score", "not above the threshold", "Proven: no change of any pixel by up to"], page, ".sentences")
    expect(page.locator("#latest")).to_have_text(f"{good[0].name}: Good")

    choose(page, dents[0])
    wait_for(["Defective"], page, "#result .word")
    assert page.locator("#result svg.shape.defective path").count() == 2
    wait_for(["hides it."], page, ".sentences .proof")
    chart = page.get_by_role("img", name="Scores of 48 calibration images")
    expect(chart).to_be_visible()
    assert "This picture" in (chart.get_attribute("aria-label") or "")

    # The map comes in over the picture as the slider moves, by keyboard too.
    slider = page.get_by_role("slider", name="Picture, anomaly map, reconstruction")
    until(page, "[...document.querySelectorAll('.frame img')].every((one) => one.naturalWidth > 0)")
    overlay = page.locator(".frame img").nth(1)
    assert overlay.evaluate("(image) => getComputedStyle(image).opacity") == "0"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert "Anomaly map" in (slider.get_attribute("aria-valuetext") or "")
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "Anomaly map"
    assert overlay.evaluate("(image) => getComputedStyle(image).opacity") == "1"

    [defective, first] = service.call("GET", "/v1/inspections")["inspections"]
    assert (first["defective"], defective["defective"], first["part_id"]) == (False, True, "A-1")


def test_many_files_one_of_which_is_no_picture(service: Served, tabs, good: list[Path], tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    evil.write_bytes(b"no picture at all")
    page = tabs(service.url)
    page.on("dialog", lambda dialog: pytest.fail("a file name ran as a script"))
    choose(page, *good[:3], evil)
    wait_for(["3 pictures inspected", "1 failed"], page, "#summary")
    found = rows(page)
    assert [found[path.name] for path in good[:3]] == ["Good"] * 3
    assert "cannot be read" in found[evil.name] or "not an image" in found[evil.name], found[evil.name]
    assert page.locator("#list img").count() == 0
    assert page.locator("#progress").evaluate("(bar) => bar.value / bar.max") == 1
    # Each row of the list shows its picture again.
    page.locator("#list button", has_text=good[1].name).click()
    wait_for([good[1].name], page, "#result")


def test_nothing_is_lost_while_the_service_is_away(service: Served, tabs, good: list[Path]) -> None:
    page = tabs(service.url)
    service.stop()
    choose(page, *good[:2])
    banner = page.get_by_role("alert").filter(has_text="The service does not answer")
    expect(banner).to_be_visible()
    wait_for(["does not answer"], page, "#list")
    service.start()
    wait_for(["2 pictures inspected"], page, "#summary")
    expect(banner).to_be_hidden()
    assert len(service.call("GET", "/v1/inspections")["inspections"]) == 2


@pytest.mark.slow
def test_a_frame_of_the_camera(service: Served, tabs) -> None:
    page = tabs(service.url, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    until(page, "document.getElementById('camera-view').videoWidth > 0")
    page.get_by_role("button", name="Inspect this picture").click()
    until(page, "document.querySelector('#list .done, #list .good, #list .defective, #list .failed')")
    assert list(rows(page)) == ["camera-1.png"]
    page.get_by_role("button", name="Close the camera").click()
    expect(page.locator("#camera")).to_be_hidden()
    expect(page.get_by_role("button", name="Use the camera")).to_be_focused()


@pytest.mark.slow
def test_a_dropped_picture(service: Served, tabs, good: list[Path]) -> None:
    page = tabs(service.url)
    content = list(good[0].read_bytes())
    page.evaluate(
        """(content) => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
            document.getElementById("drop").dispatchEvent(
                new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        content,
    )
    wait_for(["1 picture inspected"], page, "#summary")
    assert rows(page) == {"dropped.png": "Good"}


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code"), [(422, "certificate_unavailable"), (504, "deadline_exceeded")])
def test_a_verdict_does_not_need_the_proof(service: Served, tabs, good: list[Path], status: int, code: str) -> None:
    page = tabs(service.url)
    refused = []

    def refuse_proofs(route: Route) -> None:
        if b'name="certify"' not in (route.request.post_data_buffer or b""):
            route.continue_()
            return
        refused.append(route.request.url)
        error = {
            "code": "certificate_unavailable",
            "message": "no bounds with this threshold",
            "fix": "leave certify out",
        }
        route.fulfill(status=422, json={"error": error})

    page.route("**/inspections", refuse_proofs)
    choose(page, good[0])
    wait_for(["Good", "No proof: no bounds with this threshold; leave certify out."], page, "#result")
    assert len(refused) == 1


@pytest.mark.slow
def test_no_proof_is_offered_where_there_is_none(service: Served, tabs, good: list[Path]) -> None:
    page = tabs(service.url)
    product = service.call("GET", "/v1/products/widget")
    product["provenance"]["certifies"] = False
    page.route("**/v1/products/widget", lambda route: route.fulfill(json=product))
    page.reload()
    box = page.get_by_label("This detector proves nothing")
    expect(box).to_be_disabled()
    choose(page, good[0])
    wait_for(["Good"], page, "#result .word")
    assert service.call("GET", "/v1/inspections")["inspections"][0]["details"] == {}


@pytest.mark.slow
def test_a_folder(service: Served, tabs, widgets: Path) -> None:
    page = tabs(service.url)
    page.set_input_files("#folder", widgets / "test" / "good")
    wait_for(["6 pictures inspected"], page, "#summary")
    assert sorted(rows(page)) == sorted(path.name for path in (widgets / "test" / "good").iterdir())
